//! The CNI results that the container runtime keeps, one file for each attachment.
//!
//! Source: containernetworking/cni `libcni`, `cachedInfo` of kind `cniCacheV1`, in `<cache>/results`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tracing::debug;

/// An attachment, as its file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cached {
    pub(super) container_id: String,
    pub(super) ifname: String,
    pub(super) network: String,
    pub(super) namespace: String,
    pub(super) pod: String,
    /// Missing from old runtimes.
    pub(super) uid: Option<String>,
    /// The path of the container's network namespace.
    pub(super) netns: Option<PathBuf>,
    /// Names of the interfaces on the node's side.
    pub(super) host_interfaces: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
}

/// Longest part of a file that is read. A file holds one configuration and one result.
const MAX_LEN_BYTES: u64 = 1 << 20;

/// The supported `kind`.
const KIND: &str = "cniCacheV1";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File1 {
    kind: String,
    container_id: String,
    if_name: String,
    network_name: String,
    #[serde(default)]
    cni_args: Option<Vec<[String; 2]>>,
    result: Outcome,
}

#[derive(Deserialize)]
struct Outcome {
    #[serde(default)]
    interfaces: Option<Vec<Interface>>,
    #[serde(default)]
    ips: Option<Vec<Ip>>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
}

/// The attachments of pods in a folder; none if the folder does not exist.
pub(super) fn read(folder: &Path) -> Vec<Cached> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut found: Vec<_> = paths
        .filter_map(|path| {
            let parsed =
                read_file(&path).and_then(|text| parse(&text).map_err(|error| error.to_string()));
            match parsed {
                Ok(cached) => cached,
                Err(error) => {
                    debug!(path = %path.display(), error, "file skipped: not a CNI result");
                    None
                }
            }
        })
        .collect();
    found.sort_by(|a, b| a.container_id.cmp(&b.container_id));
    found
}

fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_LEN_BYTES).read_to_string(&mut text));
    read.map(|_len_bytes| text).map_err(|error| error.to_string())
}

/// Parses a file; `None` if its attachment does not belong to a pod.
fn parse(text: &str) -> serde_json::Result<Option<Cached>> {
    let File1 { kind, container_id, if_name, network_name, cni_args, result } =
        serde_json::from_str(text)?;
    let mut args: BTreeMap<String, String> =
        cni_args.unwrap_or_default().into_iter().map(|[key, value]| (key, value)).collect();
    let (Some(namespace), Some(pod), true) =
        (args.remove("K8S_POD_NAMESPACE"), args.remove("K8S_POD_NAME"), kind == KIND)
    else {
        return Ok(None);
    };
    let interfaces = result.interfaces.unwrap_or_default();
    let (inside, outside): (Vec<_>, Vec<_>) =
        interfaces.into_iter().partition(|interface| !interface.sandbox.is_empty());
    let own = inside.iter().find(|interface| interface.name == if_name).or(inside.first());
    let ips = result.ips.unwrap_or_default();
    let addresses = ips.iter().filter_map(|ip| ip.address.split('/').next()?.parse().ok());
    Ok(Some(Cached {
        container_id,
        network: network_name,
        namespace,
        pod,
        uid: args.remove("K8S_POD_UID").filter(|uid| !uid.is_empty()),
        netns: own.map(|interface| PathBuf::from(&interface.sandbox)),
        host_interfaces: outside.into_iter().map(|interface| interface.name).collect(),
        addresses: addresses.collect(),
        ifname: if_name,
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file() -> serde_json::Value {
        json!({
            "kind": "cniCacheV1",
            "containerId": "c1",
            "config": "e30=",
            "ifName": "eth0",
            "networkName": "cbr0",
            "netns": "/var/run/netns/cni-1",
            "cniArgs": [
                ["IgnoreUnknown", "1"],
                ["K8S_POD_NAMESPACE", "shop"],
                ["K8S_POD_NAME", "web"],
                ["K8S_POD_INFRA_CONTAINER_ID", "c1"],
                ["K8S_POD_UID", "1234"],
            ],
            "capabilityArgs": { "portMappings": [] },
            "result": {
                "cniVersion": "0.3.1",
                "interfaces": [
                    { "name": "cni0", "mac": "00:00:00:00:00:01" },
                    { "name": "veth1", "mac": "00:00:00:00:00:02" },
                    { "name": "eth0", "mac": "00:00:00:00:00:03", "sandbox": "/var/run/netns/cni-1" },
                ],
                "ips": [{ "version": "4", "interface": 2, "address": "10.244.0.7/24" }],
            },
        })
    }

    #[test]
    fn a_result_of_flannel_under_containerd_names_pod_interface_and_addresses() {
        let cached = parse(&file().to_string()).unwrap().unwrap();
        let expected = Cached {
            container_id: "c1".into(),
            ifname: "eth0".into(),
            network: "cbr0".into(),
            namespace: "shop".into(),
            pod: "web".into(),
            uid: Some("1234".into()),
            netns: Some("/var/run/netns/cni-1".into()),
            host_interfaces: vec!["cni0".into(), "veth1".into()],
            addresses: vec!["10.244.0.7".parse().unwrap()],
        };
        assert_eq!(cached, expected);
    }

    #[test]
    fn files_without_a_pods_result_are_skipped() {
        for (field, value) in [("kind", json!("cniCacheV2")), ("cniArgs", json!(null))] {
            let mut file = file();
            file[field] = value;
            assert_eq!(parse(&file.to_string()).unwrap(), None, "{field}");
        }
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in
            [("good", file().to_string()), ("cut", "{".into()), ("empty", String::new())]
        {
            fs::write(folder.path().join(name), text).unwrap();
        }
        fs::create_dir(folder.path().join("folder")).unwrap();
        assert_eq!(read(folder.path()).len(), 1);
        assert_eq!(read(&folder.path().join("nonexistent")), []);
    }
}
