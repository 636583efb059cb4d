//! The text in a node's object: one line for each pod, `UID NAMESPACE/NAME ADDRESS[,ADDRESS]`.

use std::sync::Arc;

use super::MAX_PODS;
use netpol_policy::model::ObjectName;
use netpol_policy::store::PublishedPod;

/// Most addresses of one pod: two of each family.
const MAX_ADDRESSES: usize = 4;

/// Most bytes that are read. The longest line has about 550.
const MAX_LENGTH: usize = 256 << 10;

/// Writes the pods, at most [`MAX_PODS`].
pub(super) fn write(pods: &[PublishedPod]) -> String {
    let line = |PublishedPod { pod, uid, addresses }: &PublishedPod| {
        let addresses = addresses.iter().take(MAX_ADDRESSES).map(ToString::to_string);
        let addresses: Vec<_> = addresses.collect();
        format!("{uid} {pod} {}\n", addresses.join(","))
    };
    pods.iter().take(MAX_PODS).map(line).collect()
}

/// Reads the pods. Lines that cannot be understood are left out, and whatever is beyond the bounds.
pub(super) fn read(text: &str) -> Vec<PublishedPod> {
    if text.len() > MAX_LENGTH {
        return Vec::new();
    }
    text.lines().take(MAX_PODS).filter_map(read_line).collect()
}

fn read_line(line: &str) -> Option<PublishedPod> {
    let mut words = line.split(' ');
    let (uid, pod, addresses) = (words.next()?, words.next()?, words.next()?);
    let (namespace, name) = pod.split_once('/')?;
    let addresses = addresses.split(',').take(MAX_ADDRESSES).map(str::parse);
    let addresses = addresses.collect::<Result<Vec<_>, _>>().ok()?;
    let pod = ObjectName::new(namespace, name);
    words.next().is_none().then(|| PublishedPod { pod, uid: Arc::from(uid), addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, addresses: &[&str]) -> PublishedPod {
        PublishedPod {
            pod: ObjectName::new("shop", name),
            uid: Arc::from("8c5b3d0e-0000-4000-8000-000000000001"),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let pods = [pod("web", &["10.244.1.7"]), pod("db", &["10.244.1.8", "fd00:10:244:1::8"])];
        let text = write(&pods);
        assert_eq!(
            text.lines().last(),
            Some("8c5b3d0e-0000-4000-8000-000000000001 shop/db 10.244.1.8,fd00:10:244:1::8")
        );
        assert_eq!(read(&text), pods);
        assert_eq!(read(""), []);
    }

    #[test]
    fn lines_that_are_not_understood_and_what_exceeds_the_bounds_are_left_out() {
        let text = "u shop/web 10.0.0.1\nu shop/web\nu web 10.0.0.1\nu shop/web ten\nu shop/web 10.0.0.1 more\n\n";
        assert_eq!(read(text).len(), 1);
        assert_eq!(read(&"u a/b 10.0.0.1\n".repeat(2 * MAX_PODS)).len(), MAX_PODS);
        assert_eq!(read(&" ".repeat(MAX_LENGTH + 1)), []);
        let addresses = ["10.0.0.1"; 9].join(",");
        assert_eq!(read(&format!("u a/b {addresses}\n"))[0].addresses.len(), MAX_ADDRESSES);
        assert_eq!(read(&write(&vec![pod("a", &["10.0.0.1"]); 2 * MAX_PODS])).len(), MAX_PODS);
    }
}
