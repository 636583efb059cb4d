//! The order of changes.
//!
//! Opening what both images need comes first, closing what neither needs comes last, and in between every address
//! goes from its old treatment to its new one in one step:
//!
//! 1. endpoints that are another sandbox's now, or gone, stop passing anything;
//! 2. source addresses that end, so that the policy to come is never asked about them; deferred addresses and egress marks
//!    that begin;
//! 3. endpoints lose isolation that ends or is only audited from now on: whatever the allow maps say, it passes;
//! 4. allow maps that hold the new meaning of every new identity and still the old one of every identity that leaves;
//! 5. addresses and prefixes get their identities (the order within is explained at [`move_addresses`]);
//! 6. endpoints gain isolation that begins, or become ready;
//! 7. allow maps lose what only old identities needed;
//! 8. source addresses that begin, now that only the new policy is asked about them; egress marks and deferred addresses that
//!    end;
//! 9. the epoch is bumped.
//!
//! `compile` sees to it that an identity that both images know with different meanings changes no members.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::ids::Identity;
use netpol_common::keys::EndpointValue;

use super::op::{MapOp, apply};
use crate::compile::{AllowMap, EndpointMapState, MapState};

/// A step: adds what it has to do, given what the maps hold by then and what they should hold.
type Step = fn(&Way<'_>, &MapState, &mut Vec<MapOp>);

/// What the maps hold before a step.
struct Way<'a> {
    /// Before the first step. Only [`move_addresses`] gives addresses and prefixes other identities, and none of the steps
    /// behind it looks at them: so these are what they are here.
    old: &'a MapState,
    /// All else.
    now: MapState,
}

const STEPS: [Step; 8] = [
    retire_endpoints,
    prepare,
    end_isolation,
    overlap_allow_maps,
    move_addresses,
    finish_endpoints,
    finish_allow_maps,
    clean_up,
];

/// The operations that lead from `old` to `new`; none if they are equal.
#[must_use]
pub fn diff(old: &MapState, new: &MapState) -> Vec<MapOp> {
    if old == new {
        return Vec::new();
    }
    let now = MapState {
        endpoints: old.endpoints.clone(),
        addresses: old.addresses.clone(),
        identities: BTreeMap::new(),
        prefixes: BTreeMap::new(),
        allow: old.allow.clone(),
        defer: old.defer.clone(),
        egress_marks: old.egress_marks.clone(),
    };
    let mut way = Way { old, now };
    let mut ops = Vec::new();
    for step in STEPS {
        let n_before = ops.len();
        step(&way, new, &mut ops);
        for op in ops.iter().skip(n_before).filter(|op| !op.moves_address()) {
            apply(op, &mut way.now);
        }
    }
    ops.push(MapOp::BumpEpoch);
    ops
}

fn retire_endpoints(way: &Way<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    for (ifindex, before) in &way.now.endpoints {
        let stays = new
            .endpoints
            .get(ifindex)
            .is_some_and(|after| after.container_id == before.container_id);
        if !stays {
            ops.push(MapOp::RemoveEndpoint(*ifindex));
        }
    }
}

fn prepare(Way { now, .. }: &Way<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    ops.extend(now.addresses.difference(&new.addresses).map(|key| MapOp::RemoveAddress(*key)));
    ops.extend(new.defer.difference(&now.defer).map(|addr| MapOp::AddDefer(*addr)));
    for (egress_mark, ifindex) in &new.egress_marks {
        if now.egress_marks.get(egress_mark) != Some(ifindex) {
            ops.push(MapOp::SetEgressMark(*egress_mark, *ifindex));
        }
    }
}

/// Allow maps that are right for addresses with their old and with their new identity.
fn overlap_allow_maps(Way { old, now }: &Way<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    let moves = old.identities != new.identities || old.prefixes != new.prefixes;
    let leaving = LazyCell::new(|| {
        let staying = new.held_identities();
        old.held_identities().difference(&staying).copied().collect::<BTreeSet<Identity>>()
    });
    for (key, after) in &new.allow {
        // Of an interface that is another sandbox's now, nothing of before may be kept.
        let stays = now.endpoints.contains_key(&key.ifindex);
        let Some(before) = now.allow.get(key).filter(|_| stays) else {
            if now.allow.get(key) != Some(after) {
                ops.push(MapOp::SetAllow(*key, Arc::clone(after)));
            }
            continue;
        };
        let mut overlap = Arc::clone(after);
        if moves && before != after {
            let kept: AllowMap = before
                .iter()
                .filter(|(entry, _)| {
                    entry.identity == Identity::ANY || leaving.contains(&entry.identity)
                })
                .map(|(entry, value)| (*entry, *value))
                .collect();
            if kept.keys().any(|entry| !after.contains_key(entry)) {
                let mut both = kept;
                both.extend(after.iter().map(|(entry, value)| (*entry, *value)));
                overlap = Arc::new(both);
            }
        }
        if *before != overlap {
            ops.push(MapOp::SetAllow(*key, overlap));
        }
    }
}

/// Endpoints that both images let pass, with the isolation of both.
fn end_isolation(Way { now, .. }: &Way<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    for (ifindex, after) in &new.endpoints {
        let Some(before) = now.endpoints.get(ifindex) else { continue };
        let are_ready =
            [before, after].iter().all(|endpoint| endpoint.value.state == EndpointValue::READY);
        if !are_ready {
            continue;
        }
        let isolated = before.value.isolated & after.value.isolated;
        // A direction that only one image audits lets everything pass meanwhile, as that image does.
        let audited = (before.value.audited | after.value.audited) & isolated;
        let value = EndpointValue { isolated, audited, ..before.value };
        if value != before.value {
            ops.push(MapOp::SetEndpoint(*ifindex, EndpointMapState { value, ..before.clone() }));
        }
    }
}

/// Moves every address from its old identity to its new one in a single step.
///
/// Addresses with entries of their own do not look at prefixes, so new own entries come before the prefixes
/// change and old ones go after. Prefixes are written longest first: until its new longest match is there an
/// address keeps its old one. They are removed shortest first: as long as its old longest match is there, an address
/// keeps it.
fn move_addresses(Way { old, .. }: &Way<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    ops.reserve(new.identities.len() + new.prefixes.len());
    for (addr, identity) in &new.identities {
        if old.identities.get(addr) != Some(identity) {
            ops.push(MapOp::SetIdentity(*addr, *identity));
        }
    }
    // Keys are ordered by length first.
    for (key, identity) in new.prefixes.iter().rev() {
        if old.prefixes.get(key) != Some(identity) {
            ops.push(MapOp::SetPrefix(*key, *identity));
        }
    }
    for key in old.prefixes.keys() {
        if !new.prefixes.contains_key(key) {
            ops.push(MapOp::RemovePrefix(*key));
        }
    }
    for addr in old.identities.keys() {
        if !new.identities.contains_key(addr) {
            ops.push(MapOp::RemoveIdentity(*addr));
        }
    }
}

fn finish_endpoints(Way { now, .. }: &Way<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    let unfinished =
        new.endpoints.iter().filter(|(ifindex, after)| now.endpoints.get(ifindex) != Some(after));
    ops.extend(unfinished.map(|(ifindex, after)| MapOp::SetEndpoint(*ifindex, after.clone())));
}

fn finish_allow_maps(Way { now, .. }: &Way<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    for (key, after) in &new.allow {
        if now.allow.get(key) != Some(after) {
            ops.push(MapOp::SetAllow(*key, Arc::clone(after)));
        }
    }
    for key in now.allow.keys() {
        if !new.allow.contains_key(key) {
            ops.push(MapOp::RemoveAllow(*key));
        }
    }
}

fn clean_up(Way { now, .. }: &Way<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    ops.extend(new.addresses.difference(&now.addresses).map(|key| MapOp::AddAddress(*key)));
    ops.extend(
        now.egress_marks
            .keys()
            .filter(|egress_mark| !new.egress_marks.contains_key(egress_mark))
            .map(|egress_mark| MapOp::RemoveEgressMark(*egress_mark)),
    );
    ops.extend(now.defer.difference(&new.defer).map(|addr| MapOp::RemoveDefer(*addr)));
}
