//! After every single map operation no packet passes that both map states deny, and none drops that both allow.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Result, bail, ensure};
use fastrand::Rng;
use netpol_common::ids::{Hook, IfIndex, Nanos};
use netpol_lab::case::{Case, End};
use netpol_lab::generator::Draw as _;
use netpol_lab::oracles::read;
use netpol_lab::wire::{Packet, SYN, Segment, SharedMaps, Wire, hook_context};
use netpol_policy::compile::MapState;
use netpol_policy::dataplane::{MapOp, MemoryMaps, apply};

/// A packet at one pod's interface.
#[derive(Clone, Copy, Debug)]
struct Sample {
    hook: Hook,
    ifindex: IfIndex,
    packet: Packet,
}

const UPLINK: IfIndex = IfIndex(2);
const NOW: Nanos = Nanos(1_000_000_000);

/// Whether the packet passes the pod's interface, and the uplink if its verdict is deferred.
fn passes(maps: &MemoryMaps, sample: &Sample) -> bool {
    maps.clear_flows();
    let Sample { hook, ifindex, packet } = sample;
    let frame = packet.frame();
    let came_in = if *hook == Hook::PodEgress { ifindex.0 } else { UPLINK.0 };
    let seen = hook_context(*hook, *ifindex, came_in, 0, NOW);
    let outcome = maps.judge(frame.as_slice(), &seen).outcome;
    if !outcome.verdict.is_pass() || *hook == Hook::PodIngress {
        return outcome.verdict.is_pass();
    }
    let seen = hook_context(Hook::UplinkEgress, UPLINK, ifindex.0, outcome.mark, NOW);
    maps.judge(frame.as_slice(), &seen).outcome.verdict.is_pass()
}

/// Memory maps, of a node that needs rules as any other address or does not.
fn wire(rng: &mut Rng) -> Wire {
    let wire = Wire::new(SharedMaps::memory());
    if rng.chance(50) { wire.judging_node() } else { wire }
}

/// Packets between pods' interfaces and all addresses of both cases.
fn samples(rng: &mut Rng, before: &Case, after: &Case, map_states: [&MapState; 2]) -> Vec<Sample> {
    let mut own: BTreeMap<IfIndex, Vec<IpAddr>> = BTreeMap::new();
    for key in map_states.iter().flat_map(|map_state| &map_state.addresses) {
        own.entry(key.ifindex).or_default().push(key.addr.to_ip());
    }
    let own: Vec<(IfIndex, Vec<IpAddr>)> = own.into_iter().collect();
    let mut remotes: Vec<IpAddr> =
        own.iter().flat_map(|(_, addresses)| addresses.clone()).collect();
    for probe in before.probes.iter().chain(&after.probes) {
        for end in [&probe.from, &probe.to] {
            if let End::Address { ip } | End::Pod { ip: Some(ip), .. } = end {
                remotes.push(ip.to_canonical());
            }
        }
    }
    let mut samples = Vec::new();
    for _ in 0..80 {
        let Some((ifindex, addresses)) = rng.choice(&own) else { break };
        let (Some(local), Some(remote)) = (rng.choice(addresses), rng.choice(&remotes)) else {
            break;
        };
        if local.is_ipv4() != remote.is_ipv4() || local == remote {
            continue;
        }
        let to = rng.one_of([1, 53, 79, 80, 81, 443, 8080, 8081, 32767, 65535]);
        let from = 50_321;
        let segment = rng.one_of([
            Segment::Tcp { from, to, flags: SYN },
            Segment::Udp { from, to },
            Segment::Sctp { from, to },
            Segment::EchoRequest { id: 7 },
        ]);
        let hook = rng.one_of([Hook::PodEgress, Hook::PodIngress]);
        let (src, dst) = match hook {
            Hook::PodEgress => (*local, *remote),
            Hook::PodIngress | Hook::UplinkEgress | Hook::UplinkIngress => (*remote, *local),
        };
        samples.push(Sample { hook, ifindex: *ifindex, packet: Packet { src, dst, segment } });
    }
    samples
}

/// Checks that the operations transform one map state into the other and keep the law after each.
fn check(
    rng: &mut Rng,
    cases: [&Case; 2],
    map_states: [&MapState; 2],
    ops: &[MapOp],
) -> Result<()> {
    let [old, new] = map_states;
    let mut reached = old.clone();
    for op in ops {
        apply(op, &mut reached);
    }
    ensure!(reached == *new, "the operations give another map state: {ops:#?}");

    let mut maps = MemoryMaps::new(old.clone());
    let after = MemoryMaps::new(new.clone());
    let samples = samples(rng, cases[0], cases[1], map_states);
    // An interface that belongs to another pod now is a new one.
    let stays = |sample: &Sample| {
        let sandbox = |map_state: &MapState| {
            map_state
                .endpoints
                .get(&sample.ifindex)
                .map(|endpoint| endpoint.container_id.to_string())
        };
        sandbox(old) == sandbox(new)
    };
    let expected: Vec<(Sample, bool, bool)> = samples
        .into_iter()
        .map(|sample| (sample, stays(&sample) && passes(&maps, &sample), passes(&after, &sample)))
        .collect();
    for (index, op) in ops.iter().enumerate() {
        maps.apply(op);
        for (sample, before, after) in &expected {
            // A retired interface is unchanged until its first operation.
            if before == after && (stays(sample) || has_left(ops, index, sample.ifindex)) {
                let now = passes(&maps, sample);
                ensure!(
                    now == *before,
                    "after operation {index} of {} ({op:?}) {sample:?} {}",
                    ops.len(),
                    if now {
                        "passes although both map states deny it"
                    } else {
                        "drops although both map states allow it"
                    },
                );
            }
        }
    }
    Ok(())
}

/// Whether the old endpoint of an interface has been removed by then.
fn has_left(ops: &[MapOp], index: usize, ifindex: IfIndex) -> bool {
    let is_removal = |op: &MapOp| *op == MapOp::RemoveEndpoint(ifindex);
    !ops.iter().any(is_removal) || ops.iter().take(index + 1).any(is_removal)
}

#[test]
fn every_single_operation_keeps_what_both_map_states_agree_on() -> Result<()> {
    let n_ops = Cell::new(0);
    super::check(120, |cases, rng| {
        let mut wire = wire(rng);
        let mut previous: Option<(&Case, MapState)> = None;
        for case in cases {
            wire.set(read(&case.objects).0)?;
            let ops = wire.take_ops();
            n_ops.set(n_ops.get() + ops.len());
            let map_state = wire.cluster.map_state().clone();
            if let Some((before, old)) = &previous
                && let Err(error) = check(rng, [before, case], [old, &map_state], &ops)
            {
                bail!("{}: {error}", case.name);
            }
            previous = Some((case, map_state));
        }
        Ok(())
    })?;
    let n_ops = n_ops.get();
    ensure!(n_ops > 1000, "too few operations to mean anything: {n_ops}");
    Ok(())
}

/// Unrelated clusters after one another, as a restarted agent meets pinned maps of long ago.
#[test]
fn every_single_operation_between_unrelated_clusters_does_too() -> Result<()> {
    super::check(60, |cases, rng| {
        let (Some(before), Some(after)) = (cases.first(), cases.last()) else { return Ok(()) };
        let mut wire = wire(rng);
        wire.set(read(&before.objects).0)?;
        let old = wire.cluster.map_state().clone();
        drop(wire.take_ops());
        wire.cluster.forget_objects();
        wire.set(read(&after.objects).0)?;
        let ops = wire.take_ops();
        let new = wire.cluster.map_state().clone();
        if let Err(error) = check(rng, [before, after], [&old, &new], &ops) {
            bail!("{} to {}: {error}", before.name, after.name);
        }
        Ok(())
    })
}
