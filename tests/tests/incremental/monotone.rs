//! Monotonicity: an additional policy restricts pods that were not isolated, and allows more for pods that were; an additional
//! rule only allows more.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use netpol_common::ids::{Direction, Hook, Nanos};
use netpol_lab::case::{Case, Protocol};
use netpol_lab::generator::Draw as _;
use netpol_lab::oracle::Oracle;
use netpol_lab::oracles::read;
use netpol_lab::wire::{self, Nat, Packet, SYN, Segment, SharedMaps, Stop, Wire};
use netpol_policy::model::{Object, ObjectName, Policy, PolicyMode, Rule};
use netpol_policy::resolve::{DefaultVerdict, isolating};
use netpol_policy::simulate::Judged;
use netpol_policy::store::ClusterState;

/// The verdicts of single ends on packets, which are given by their index.
type Sayings = BTreeMap<(usize, ObjectName, Direction), bool>;

/// The first packets of a case's probes.
fn packets(case: &Case) -> Vec<Packet> {
    let oracle = Oracle::new(&case.objects);
    let packet = |probe| {
        let (src, dst, to) = oracle.connection(probe)?;
        let from = 50_321;
        let segment = match probe.protocol {
            Protocol::Tcp => Segment::Tcp { from, to, flags: SYN },
            Protocol::Udp => Segment::Udp { from, to },
            Protocol::Sctp => Segment::Sctp { from, to },
        };
        Some(Packet { src, dst, segment })
    };
    case.probes.iter().filter_map(packet).collect()
}

/// The verdict of each end on each packet, independent of the peer's.
fn sayings(objects: &[Object], packets: &[Packet]) -> Result<(ClusterState, Sayings)> {
    let maps = SharedMaps::memory();
    let mut wire = Wire::new(maps.clone());
    wire.set(objects.to_vec())?;
    let state = wire.cluster.state().clone();
    let found = RefCell::new(Sayings::new());
    for (index, packet) in packets.iter().enumerate() {
        wire.forget_flows()?;
        let judge = |packet: &Packet, seen: &_| -> Result<(Stop, Judged)> {
            let (judged, verdict) = maps.observe(&packet.frame(), seen)?;
            let (address, direction) = match seen.hook {
                // At the uplink the sender's deferred verdict is finished.
                Hook::PodEgress | Hook::UplinkEgress => (packet.src, Direction::Egress),
                Hook::PodIngress | Hook::UplinkIngress => (packet.dst, Direction::Ingress),
            };
            if let Some(pod) = state.owner(address) {
                let mut found = found.borrow_mut();
                let says = found.entry((index, pod.name.clone(), direction)).or_insert(true);
                *says &= judged.passes;
            }
            Ok((Stop { passes: true, verdict }, judged))
        };
        wire::send(&state, packet, Nat::None, Nanos(1_000_000_000), &judge)?;
    }
    Ok((state, found.into_inner()))
}

fn policies(objects: &[Object]) -> Vec<(usize, Policy)> {
    let policy = |(index, object): (usize, &Object)| match object {
        Object::Policy(policy) => Some((index, policy.clone())),
        Object::ClusterPolicy(_)
        | Object::Pod(_)
        | Object::Namespace(_)
        | Object::Service(_)
        | Object::Node(_) => None,
    };
    objects.iter().enumerate().filter_map(policy).collect()
}

#[test]
fn a_further_policy_restricts_who_was_not_isolated_and_opens_for_who_was() -> Result<()> {
    super::check_network_policies(80, |cases, _| {
        let Some(case) = cases.first() else { return Ok(()) };
        let (objects, packets) = (read(&case.objects).0, packets(case));
        let (_, after) = sayings(&objects, &packets)?;
        for (index, policy) in policies(&objects) {
            let mut fewer = objects.clone();
            fewer.remove(index);
            let (state, before) = sayings(&fewer, &packets)?;
            for (key, allowed_before) in &before {
                let (packet, name, direction) = key;
                let Some(allowed_after) = after.get(key) else { continue };
                let was_isolated = state.pod(name).is_some_and(|pod| {
                    isolating(&state, pod, *direction).0 == DefaultVerdict::Deny
                });
                let is_right = if was_isolated {
                    *allowed_before <= *allowed_after
                } else {
                    *allowed_before >= *allowed_after
                };
                ensure!(
                    is_right,
                    "{}: adding {} changes {direction} of {name} from {allowed_before} to {allowed_after} for {:?}",
                    case.name,
                    policy.name,
                    packets.get(*packet),
                );
            }
        }
        Ok(())
    })
}

#[test]
fn a_further_rule_never_allows_less() -> Result<()> {
    let n_opened = Cell::new(0);
    super::check_network_policies(80, |cases, rng| {
        let Some(case) = cases.first() else { return Ok(()) };
        let (objects, packets) = (read(&case.objects).0, packets(case));
        let (_, before) = sayings(&objects, &packets)?;
        let policies = policies(&objects);
        for (index, policy) in &policies {
            // A rule of any policy is valid in any other policy for the same direction.
            let direction = rng.one_of(Direction::ALL);
            let rules: Vec<&Rule> =
                policies.iter().flat_map(|(_, policy)| policy.rules(direction)).collect();
            let Some(rule) = rng.choice(&rules) else { continue };
            let rule = Rule { index: policy.rules(direction).len() + 10, ..(*rule).clone() };
            if policy.mode == PolicyMode::Audit {
                continue;
            }
            let mut policy = policy.clone();
            let rules = match direction {
                Direction::Ingress => &mut policy.ingress,
                Direction::Egress => &mut policy.egress,
            };
            *rules = rules.iter().cloned().chain([rule]).collect();
            let name = policy.name.clone();
            let mut more = objects.clone();
            let Some(slot) = more.get_mut(*index) else { continue };
            *slot = Object::Policy(policy);
            let (_, after) = sayings(&more, &packets)?;
            for (key, allowed_before) in &before {
                let Some(allowed_after) = after.get(key) else { continue };
                n_opened.set(n_opened.get() + usize::from(allowed_before < allowed_after));
                ensure!(
                    allowed_before <= allowed_after,
                    "{}: an additional {direction} rule of {name} denies {key:?} for {:?}",
                    case.name,
                    packets.get(key.0),
                );
            }
        }
        Ok(())
    })?;
    let n_opened = n_opened.get();
    ensure!(n_opened > 20, "too few rules allowed more: {n_opened}");
    Ok(())
}
