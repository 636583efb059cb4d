//! Connections that an audited policy would deny are reported, each with its first packet only.

use std::cell::Cell;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use netpol_common::ids::Nanos;
use netpol_common::reason::{PassReason, Verdict};
use netpol_lab::case::{Probe, Protocol};
use netpol_lab::oracle::Oracle;
use netpol_lab::oracles::read;
use netpol_lab::wire::{Nat, Packet, SYN, Segment, SharedMaps, Walk, Wire};
use netpol_policy::model::Transport;
use netpol_policy::resolve::{Connection, EndDecision, EndVerdict, evaluate, is_service};
use netpol_policy::store::ClusterState;
use serde_json::json;

use super::check;

/// Default number of generated sequences, of each kind.
const N_SEQUENCES: usize = 25;

/// Whether a hook reports a packet as one that audit mode has let pass.
fn is_reported(walk: &Walk) -> bool {
    let audited = Some(Verdict::Pass(PassReason::Audited));
    [walk.egress, walk.uplink, walk.ingress].iter().flatten().any(|stop| stop.verdict == audited)
}

/// The connection of a probe that passes no Service, as its first packet and as the reference has it.
fn direct(
    oracle: &Oracle<'_>,
    state: &ClusterState,
    probe: &Probe,
) -> Option<(Packet, Connection)> {
    let (source, destination, port) = oracle.connection(probe)?;
    let from = 5000;
    let (segment, transport) = match probe.protocol {
        Protocol::Tcp => (Segment::Tcp { from, to: port, flags: SYN }, Transport::Tcp),
        Protocol::Udp => (Segment::Udp { from, to: port }, Transport::Udp),
        Protocol::Sctp => (Segment::Sctp { from, to: port }, Transport::Sctp),
    };
    let (is_translated, is_masqueraded) = (false, false);
    let connection =
        Connection { source, destination, transport, port, is_translated, is_masqueraded };
    let packet = Packet { src: source, dst: destination, segment };
    (!is_service(state, destination)).then_some((packet, connection))
}

#[test]
fn what_the_oracle_allows_only_without_audited_policies_is_reported() -> Result<()> {
    let n_reported = Cell::new(0);
    check(N_SEQUENCES, |cases, _| {
        let mut wire = Wire::new(SharedMaps::memory());
        for case in cases {
            wire.set(read(&case.objects).0)?;
            let (enforced, all) = (Oracle::new(&case.objects), Oracle::with_audited(&case.objects));
            for probe in &case.probes {
                let state = wire.cluster.state();
                let Some((packet, connection)) = direct(&enforced, state, probe) else { continue };
                let expected = enforced.allows(probe) && !all.allows(probe);
                let decision = evaluate(state, &connection);
                let mut ends = [&decision.egress, &decision.ingress].into_iter().flatten();
                // Where NetworkPolicies allow everything, their implied deny hides an audited rule before them.
                let is_hidden = |end: &EndDecision| {
                    let is_exempt = matches!(end.verdict, EndVerdict::OwnNode | EndVerdict::Itself);
                    is_exempt && !end.isolating.is_empty()
                };
                if ends.clone().any(is_hidden) {
                    continue;
                }
                let is_audited =
                    decision.is_allowed() && ends.any(|end| end.verdict == EndVerdict::Audited);
                ensure!(
                    is_audited == expected,
                    "{}: {probe}: oracle {expected}, reference {decision:#?}",
                    case.name
                );
                wire.forget_flows()?;
                let walk = wire.send(&packet, Nat::None, Nanos(1_000_000_000))?;
                let found = walk.passes() && is_reported(&walk);
                ensure!(found == expected, "{}: {probe}: oracle {expected}, {walk:#?}", case.name);
                n_reported.set(n_reported.get() + u32::from(found));
            }
        }
        Ok(())
    })?;
    ensure!(n_reported.get() > 0, "none is reported");
    Ok(())
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
