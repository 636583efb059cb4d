//! What is in force on each node, in an annotation of a Lease of the node's name: one line for each policy, `NAME UID GENERATION`, and
//! `over-capacity` if rules of it exceed the capacity of the node's maps.
//!
//! Not in the object with addresses, because every agent watches that one, and only the elected one reads this.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

use super::{Generation, InForce};
use crate::access::Error;
use crate::published::{NAMESPACE, limited};

/// Label and value of the Leases.
const LABEL: [&str; 2] = ["app.kubernetes.io/component", "node-policies"];

/// The annotation.
const ANNOTATION: &str = "netpol.dev/cluster-policies";

/// The last word of a line about a policy that exceeds the capacity.
const OVER_CAPACITY: &str = "over-capacity";

/// The field manager.
const MANAGER: &str = "netpol-agent";

/// Writes what is in force on a node, by server-side apply. It is deleted with the Node of this uid.
///
/// # Errors
/// [`Error::Request`] if the server cannot be reached or refuses the request, [`Error::Timeout`] if it does not respond.
pub async fn report(
    client: &Client,
    node: &str,
    node_uid: &str,
    in_force: &InForce,
) -> Result<(), Error> {
    let [label, value] = LABEL;
    let owner = json!({ "apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid });
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": node,
            "namespace": NAMESPACE,
            "labels": { label: value },
            "annotations": { ANNOTATION: write(in_force) },
            "ownerReferences": [owner],
        },
        "spec": { "holderIdentity": node },
    });
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let params = PatchParams::apply(MANAGER).force();
    limited(leases.patch(node, &params, &Patch::Apply(&lease))).await.map(drop)
}

/// What is in force on each node whose agent has reported.
///
/// # Errors
/// Those of [`report`].
pub async fn in_force(client: &Client) -> Result<BTreeMap<String, InForce>, Error> {
    let [label, value] = LABEL;
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let params = ListParams::default().labels(&format!("{label}={value}"));
    let found = limited(leases.list(&params)).await?;
    let read = |lease: Lease| {
        let said = lease.metadata.annotations.unwrap_or_default().remove(ANNOTATION)?;
        Some((lease.metadata.name?, read(&said)))
    };
    Ok(found.items.into_iter().filter_map(read).collect())
}

fn write(in_force: &InForce) -> String {
    let line = |(name, of): (&Arc<str>, &Generation)| {
        let Generation { uid, generation, is_over_capacity } = of;
        let note = if *is_over_capacity { format!(" {OVER_CAPACITY}") } else { String::new() };
        format!("{name} {uid} {generation}{note}\n")
    };
    in_force.iter().map(line).collect()
}

/// Lines that cannot be understood are left out.
fn read(text: &str) -> InForce {
    let read = |line: &str| {
        let mut words = line.split(' ');
        let (name, uid, generation) = (words.next()?, words.next()?, words.next()?);
        let generation = generation.parse().ok()?;
        let is_over_capacity = words.next() == Some(OVER_CAPACITY);
        let of = Generation { uid: Arc::from(uid), generation, is_over_capacity };
        Some((Arc::from(name), of))
    };
    text.lines().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_makes_no_sense_is_left_out() {
        let fits = Generation { uid: Arc::from("u"), generation: 7, is_over_capacity: false };
        let exceeds = Generation { is_over_capacity: true, ..fits.clone() };
        let in_force = InForce::from([(Arc::from("a"), fits), (Arc::from("b"), exceeds)]);
        assert_eq!(write(&in_force), "a u 7\nb u 7 over-capacity\n");
        assert_eq!(read(&write(&in_force)), in_force);
        assert_eq!(read("a u\na u x\n\n"), InForce::new());
    }
}
