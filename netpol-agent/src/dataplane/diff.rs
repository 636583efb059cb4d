//! The order of changes.
//!
//! Opening what both images need comes first, closing what neither needs comes last, and in between every address
//! goes from its old treatment to its new one in one step:
//!
//! 1. endpoints that are another sandbox's now, or gone, stop passing anything;
//! 2. source addresses that end, so that the policy to come is never asked about them; deferred addresses and tickets
//!    that begin;
//! 3. endpoints lose isolation that ends or is only audited from now on: whatever the allow maps say, it passes;
//! 4. allow maps that hold the new meaning of every new identity and still the old one of every identity that leaves;
//! 5. addresses and prefixes get their identities (the order within is explained at [`move_addresses`]);
//! 6. endpoints gain isolation that begins, or become ready;
//! 7. allow maps lose what only old identities needed;
//! 8. source addresses that begin, now that only the new policy is asked about them; tickets and deferred addresses that
//!    end;
//! 9. the epoch is bumped.
//!
//! `compile` sees to it that an identity that both images know with different meanings changes no members.

use std::collections::BTreeSet;
use std::sync::Arc;

use netpol_common::ids::Identity;
use netpol_common::keys::EndpointValue;

use super::op::{MapOp, apply};
use crate::compile::{AllowMap, EndpointImage, Image};

/// A step: what it has to do, given what the maps hold by then and what they should hold.
type Step = fn(&Image, &Image) -> Vec<MapOp>;

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
pub fn diff(old: &Image, new: &Image) -> Vec<MapOp> {
    if old == new {
        return Vec::new();
    }
    let mut now = old.clone();
    let mut ops = Vec::new();
    for step in STEPS {
        let todo = step(&now, new);
        for op in &todo {
            apply(op, &mut now);
        }
        ops.extend(todo);
    }
    ops.push(MapOp::BumpEpoch);
    ops
}

fn retire_endpoints(old: &Image, new: &Image) -> Vec<MapOp> {
    let mut ops = Vec::new();
    for (ifindex, before) in &old.endpoints {
        let stays = new
            .endpoints
            .get(ifindex)
            .is_some_and(|after| after.container_id == before.container_id);
        if !stays {
            ops.push(MapOp::RemoveEndpoint(*ifindex));
        }
    }
    ops
}

fn prepare(now: &Image, new: &Image) -> Vec<MapOp> {
    let mut ops: Vec<MapOp> = Vec::new();
    ops.extend(now.addresses.difference(&new.addresses).map(|key| MapOp::RemoveAddress(*key)));
    ops.extend(new.defer.difference(&now.defer).map(|addr| MapOp::AddDefer(*addr)));
    for (ticket, ifindex) in &new.tickets {
        if now.tickets.get(ticket) != Some(ifindex) {
            ops.push(MapOp::SetTicket(*ticket, *ifindex));
        }
    }
    ops
}

/// Allow maps that are right for addresses with their old and with their new identity.
fn overlap_allow_maps(now: &Image, new: &Image) -> Vec<MapOp> {
    let moves = now.identities != new.identities || now.prefixes != new.prefixes;
    let staying = new.held_identities();
    let leaving: BTreeSet<Identity> = now.held_identities().difference(&staying).copied().collect();
    let mut ops = Vec::new();
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
    ops
}

/// Endpoints that both images let pass, with the isolation of both.
fn end_isolation(now: &Image, new: &Image) -> Vec<MapOp> {
    let mut ops = Vec::new();
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
            ops.push(MapOp::SetEndpoint(*ifindex, EndpointImage { value, ..before.clone() }));
        }
    }
    ops
}

/// Moves every address from its old identity to its new one in a single step.
///
/// Addresses with entries of their own do not look at prefixes, so new own entries come before the prefixes
/// change and old ones go after. Prefixes are written longest first: until its new longest match is there an
/// address keeps its old one. They are removed shortest first: as long as its old longest match is there, an address
/// keeps it.
fn move_addresses(now: &Image, new: &Image) -> Vec<MapOp> {
    let mut ops = Vec::new();
    for (addr, identity) in &new.identities {
        if now.identities.get(addr) != Some(identity) {
            ops.push(MapOp::SetIdentity(*addr, *identity));
        }
    }
    // Keys are ordered by length first.
    for (key, identity) in new.prefixes.iter().rev() {
        if now.prefixes.get(key) != Some(identity) {
            ops.push(MapOp::SetPrefix(*key, *identity));
        }
    }
    for key in now.prefixes.keys() {
        if !new.prefixes.contains_key(key) {
            ops.push(MapOp::RemovePrefix(*key));
        }
    }
    for addr in now.identities.keys() {
        if !new.identities.contains_key(addr) {
            ops.push(MapOp::RemoveIdentity(*addr));
        }
    }
    ops
}

fn finish_endpoints(now: &Image, new: &Image) -> Vec<MapOp> {
    new.endpoints
        .iter()
        .filter(|(ifindex, after)| now.endpoints.get(ifindex) != Some(after))
        .map(|(ifindex, after)| MapOp::SetEndpoint(*ifindex, after.clone()))
        .collect()
}

fn finish_allow_maps(now: &Image, new: &Image) -> Vec<MapOp> {
    let mut ops = Vec::new();
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
    ops
}

fn clean_up(now: &Image, new: &Image) -> Vec<MapOp> {
    let mut ops: Vec<MapOp> = Vec::new();
    ops.extend(new.addresses.difference(&now.addresses).map(|key| MapOp::AddAddress(*key)));
    ops.extend(
        now.tickets
            .keys()
            .filter(|ticket| !new.tickets.contains_key(ticket))
            .map(|ticket| MapOp::RemoveTicket(*ticket)),
    );
    ops.extend(now.defer.difference(&new.defer).map(|addr| MapOp::RemoveDefer(*addr)));
    ops
}
