//! Connections that an audited policy would deny are reported, each with its first packet only.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use netpol_common::ids::Nanos;
use netpol_common::reason::{PassReason, Verdict};
use netpol_lab::oracles::read;
use netpol_lab::wire::{Nat, Packet, SYN, Segment, SharedMaps, Walk, Wire};
use serde_json::json;

/// Whether a hook reports a packet as one that audit mode has let pass.
fn is_reported(walk: &Walk) -> bool {
    let audited = Some(Verdict::Pass(PassReason::Audited));
    [walk.egress, walk.uplink, walk.ingress].iter().flatten().any(|stop| stop.verdict == audited)
}

/// Every packet to the own node was reported, and none of a pod to itself.
#[test]
fn each_connection_that_an_audited_policy_would_deny_is_reported_once() -> Result<()> {
    let [pod, node, vip, outside]: [IpAddr; 4] = [
        [10, 244, 0, 9].into(),
        [192, 168, 0, 1].into(),
        [10, 96, 0, 10].into(),
        [8, 8, 8, 8].into(),
    ];
    let objects = json!([
        { "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" },
          "status": { "addresses": [{ "type": "InternalIP", "address": node }] } },
        { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "x" } },
        { "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a", "namespace": "x" },
          "spec": { "nodeName": "n1" }, "status": { "phase": "Running", "podIPs": [{ "ip": pod }] } },
        { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s", "namespace": "x" },
          "spec": { "clusterIP": vip, "clusterIPs": [vip] } },
        { "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
          "metadata": { "name": "c", "annotations": { "netpol/mode": "audit" } },
          "spec": { "tier": "Admin", "priority": 1, "subject": { "namespaces": {} },
                    "egress": [{ "action": "Deny", "to": [{ "networks": ["0.0.0.0/0"] }] }] } },
    ]);
    let mut wire = Wire::new(SharedMaps::memory());
    wire.set(read(objects.as_array().context("no objects")?).0)?;
    let now = Nanos(1_000_000_000);
    let connections = [
        ("to the own node", node, Nat::None),
        ("to itself", pod, Nat::Destination(vip)),
        ("to an address outside", outside, Nat::None),
    ];
    for (name, dst, nat) in connections {
        let first =
            Packet { src: pod, dst, segment: Segment::Tcp { from: 5000, to: 80, flags: SYN } };
        let mut walks = Vec::new();
        for packet in [first, first.next(), first.next()] {
            walks.push(wire.send(&packet, nat, now)?);
        }
        let found: Vec<bool> = walks.iter().map(is_reported).collect();
        ensure!(found == [true, false, false], "{name}: {walks:#?}");
        ensure!(walks.iter().all(Walk::passes), "{name}: {walks:#?}");
    }
    Ok(())
}
