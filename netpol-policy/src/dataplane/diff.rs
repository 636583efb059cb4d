//! The order of changes.
//!
//! Law (invariant I4): after every single operation nothing passes that both map states forbid, and nothing drops that both
//! allow. So entries that both states need open come first and those that neither needs close last, and in between each
//! address goes from its old verdicts to its new ones in one step:
//!
//! 1. endpoints that are gone, or belong to another sandbox now, stop passing anything;
//! 2. source addresses that end are removed, so that the new policy never judges them; deferred addresses, egress marks and
//!    translated ports of the node that begin are written, its addresses that stay deferred end, and the link-local addresses of
//!    endpoints whose MAC address becomes known begin, because until then such addresses are not checked; backends on the node's network
//!    that begin count beside those that end ([`super::backends`]);
//! 3. endpoints lose isolation that ends or is only audited from now on: everything passes, whatever the allow maps hold;
//! 4. allow maps get the new entries of new identities, and keep the old entries of identities that leave;
//! 5. addresses and prefixes get their new identities (for the order see [`add_identities`]);
//! 6. allow maps with entries that deny change from the old to the new verdicts, except for identities that leave (see
//!    [`super::transition`]; maps that only allow hold both since step 4);
//! 7. old entries of addresses and prefixes are removed;
//! 8. endpoints gain isolation that begins, or become ready;
//! 9. allow maps lose the entries of old identities;
//! 10. source addresses that begin are written, because only the new policy judges them now, and likewise addresses of the
//!     node that were deferred before, and backends of Services that had none; backends that end, egress marks, deferred addresses and translated ports that end are removed;
//! 11. the epoch is bumped.
//!
//! `compile` ensures that an identity that both map states hold, and that has other verdicts in the new one, keeps its
//! addresses.
//!
//! A map may be updated in place, entry by entry, only if all entries of the old and the new map allow: then added and removed
//! entries give, in any mixture, a verdict that one of the two maps gives. Any other map is replaced as a whole
//! (`netpol-datapath` fills an unused slot and switches the endpoint's entry to it).

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashMap;
use netpol_common::ids::{Direction, Identity};
use netpol_common::keys::{AddressKey, EndpointValue};
use netpol_common::mac::Mac;

use super::backends;
use super::op::{MapOp, apply};
use super::transition::{ENTERING_NONE, LEAVING_NONE, Transition};
use crate::compile::{AllowMap, AllowMapKey, EndpointMapState, MapState};

/// A step: adds its operations, given what the maps hold before it and what they should hold in the end.
type Step = fn(&Progress<'_>, &MapState, &mut Vec<MapOp>);

/// The content of the maps before a step.
struct Progress<'a> {
    /// The content before the first step: the steps read identities of addresses and prefixes from here.
    old: &'a MapState,
    /// The current content, without identities of addresses and prefixes.
    now: MapState,
    /// The directions of endpoints whose allow maps change and do not only allow.
    transitions: BTreeMap<AllowMapKey, Rc<Transition>>,
}

/// The identity of a value that several endpoints share, while something keeps it alive.
fn address_of<T>(shared: &T) -> usize {
    std::ptr::from_ref(shared).addr()
}

impl Progress<'_> {
    /// Whether addresses get other identities while allow maps with entries that deny change.
    fn moves_in_transition(&self, new: &MapState) -> bool {
        !self.transitions.is_empty() && self.moves_addresses(new)
    }

    fn moves_addresses(&self, new: &MapState) -> bool {
        self.old.identities != new.identities || self.old.prefixes != new.prefixes
    }
}

const STEPS: [Step; 10] = [
    retire_endpoints,
    prepare,
    end_isolation,
    overlap_allow_maps,
    add_identities,
    switch_allow_maps,
    remove_identities,
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
        own_node: old.own_node.clone(),
        node_backends: old.node_backends.clone(),
        egress_marks: old.egress_marks.clone(),
    };
    let mut progress = Progress { old, now, transitions: transitions(old, new) };
    let mut ops = Vec::new();
    for step in STEPS {
        let n_before = ops.len();
        step(&progress, new, &mut ops);
        for op in ops.iter().skip(n_before).filter(|op| !op.moves_address()) {
            apply(op, &mut progress.now);
        }
    }
    ops.push(MapOp::BumpEpoch);
    ops
}

/// Endpoints with equal maps before and after share the transition.
fn transitions(old: &MapState, new: &MapState) -> BTreeMap<AllowMapKey, Rc<Transition>> {
    let mut known: HashMap<[(usize, bool); 2], Option<Rc<Transition>>> = HashMap::new();
    let transition = |key: &AllowMapKey| {
        let sandbox =
            |of: &MapState| Some(Arc::clone(&of.endpoints.get(&key.ifindex)?.container_id));
        let (before, after) = (old.direction(key)?, new.direction(key)?);
        let states = [&before, &after].map(|of| (address_of(&**of.map), of.is_audited));
        let transition = known
            .entry(states)
            .or_insert_with(|| Transition::new(&before, &after).map(Rc::new))
            .clone()?;
        (sandbox(old) == sandbox(new)).then_some((*key, transition))
    };
    old.allow.keys().filter_map(transition).collect()
}

fn retire_endpoints(progress: &Progress<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    for (ifindex, before) in &progress.now.endpoints {
        let stays = new
            .endpoints
            .get(ifindex)
            .is_some_and(|after| after.container_id == before.container_id);
        if !stays {
            ops.push(MapOp::RemoveEndpoint(*ifindex));
        }
    }
}

fn prepare(Progress { now, .. }: &Progress<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    ops.extend(now.addresses.difference(&new.addresses).map(|key| MapOp::RemoveAddress(*key)));
    let is_unchecked =
        |key: &AddressKey| now.endpoints.get(&key.ifindex).is_some_and(|of| of.mac == Mac::UNKNOWN);
    let begin = new.addresses.difference(&now.addresses);
    let link_local = begin.filter(|key| key.addr.is_v6_link_local() && is_unchecked(key));
    ops.extend(link_local.map(|key| MapOp::AddAddress(*key)));
    // Only what is not translated is judged, so ports begin first and end last, and addresses the other way round. An address that
    // is deferred only while it is the node's is never deferred without being judged.
    let begin = new.own_node.difference(&now.own_node).filter(|key| key.is_address());
    ops.extend(begin.filter(|key| !now.defer.contains(&key.addr)).map(|key| MapOp::AddNode(*key)));
    ops.extend(new.defer.difference(&now.defer).map(|addr| MapOp::AddDefer(*addr)));
    let left = now.own_node.difference(&new.own_node).filter(|key| key.is_address());
    ops.extend(left.filter(|key| new.defer.contains(&key.addr)).map(|key| MapOp::RemoveNode(*key)));
    ops.extend(backends::begin(now, new));
    let ports = new.own_node.difference(&now.own_node).filter(|key| !key.is_address());
    ops.extend(ports.map(|key| MapOp::AddNode(*key)));
    for (egress_mark, ifindex) in &new.egress_marks {
        if now.egress_marks.get(egress_mark) != Some(ifindex) {
            ops.push(MapOp::SetEgressMark(*egress_mark, *ifindex));
        }
    }
}

/// Allow maps that are right for addresses with their old and with their new identity. Endpoints with equal maps share them.
fn overlap_allow_maps(progress: &Progress<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    let Progress { old, now, transitions } = progress;
    let moves = progress.moves_addresses(new);
    let entering = LazyCell::new(|| {
        let mut entering = only_in(new, old);
        entering.insert(ENTERING_NONE);
        entering
    });
    let leaving = LazyCell::new(|| only_in(old, new));
    let mut in_transition: HashMap<usize, Arc<AllowMap>> = HashMap::new();
    let mut overlaps: HashMap<[usize; 2], Arc<AllowMap>> = HashMap::new();
    for (key, after) in &new.allow {
        if let Some(transition) = transitions.get(key) {
            let map = in_transition.entry(address_of(&**transition)).or_insert_with(|| {
                if moves {
                    transition.while_adding(&entering)
                } else {
                    Arc::clone(transition.after())
                }
            });
            if now.allow.get(key) != Some(&*map) {
                ops.push(MapOp::SetAllow(*key, Arc::clone(map)));
            }
            continue;
        }
        // An interface that belongs to another sandbox now keeps no entry.
        let stays = now.endpoints.contains_key(&key.ifindex);
        let Some(before) = now.allow.get(key).filter(|_| stays) else {
            if now.allow.get(key) != Some(after) {
                ops.push(MapOp::SetAllow(*key, Arc::clone(after)));
            }
            continue;
        };
        let overlap =
            overlaps.entry([before, after].map(|map| address_of(&**map))).or_insert_with(|| {
                if moves { overlap(before, after, &leaving) } else { Arc::clone(after) }
            });
        if *before != *overlap {
            ops.push(MapOp::SetAllow(*key, Arc::clone(overlap)));
        }
    }
}

/// The new map, with the old entries of identities that leave and of any peer.
fn overlap(
    before: &Arc<AllowMap>,
    after: &Arc<AllowMap>,
    leaving: &BTreeSet<Identity>,
) -> Arc<AllowMap> {
    if before == after {
        return Arc::clone(before);
    }
    let kept: AllowMap = before
        .iter()
        .filter(|(entry, _)| entry.identity == Identity::ANY || leaving.contains(&entry.identity))
        .map(|(entry, value)| (*entry, *value))
        .collect();
    if kept.keys().all(|entry| after.contains_key(entry)) {
        return Arc::clone(after);
    }
    let mut both = kept;
    both.extend(after.iter().map(|(entry, value)| (*entry, *value)));
    Arc::new(both)
}

/// Ready endpoints with the isolation that both map states have.
fn end_isolation(progress: &Progress<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    let Progress { now, transitions, .. } = progress;
    for (ifindex, after) in &new.endpoints {
        let Some(before) = now.endpoints.get(ifindex) else { continue };
        let are_ready =
            [before, after].iter().all(|endpoint| endpoint.value.state == EndpointValue::READY);
        if !are_ready {
            continue;
        }
        let isolated = before.value.isolated & after.value.isolated;
        // A direction that only one map state audits passes everything meanwhile, as that map state does. A direction with
        // entries that deny does not: it keeps its audit until its allow map states the default verdict.
        let in_transition: u8 = Direction::ALL
            .into_iter()
            .filter(|direction| transitions.contains_key(&AllowMapKey::new(*ifindex, *direction)))
            .map(Direction::bit)
            .sum();
        let begins = after.value.audited & !in_transition;
        let audited = (before.value.audited | begins) & isolated;
        // What rules cannot describe drops if one of the two states drops it.
        let denies = before.value.denies | after.value.denies;
        let value = EndpointValue { isolated, audited, denies, ..before.value };
        if value != before.value {
            ops.push(MapOp::SetEndpoint(*ifindex, EndpointMapState { value, ..before.clone() }));
        }
    }
}

/// The identities that only the first of two map states holds.
fn only_in(one: &MapState, other: &MapState) -> BTreeSet<Identity> {
    let in_other = other.held_identities();
    let mut identities = one.held_identities();
    identities.retain(|identity| *identity != Identity::NONE && !in_other.contains(identity));
    identities
}

/// Writes new identities. Together with [`remove_identities`] it moves every address from its old identity to its new one in a
/// single step.
///
/// Prefixes do not count for an address with an entry of its own, so new own entries are written before the prefixes change
/// and old ones are removed after. Prefixes are written longest first: until its new longest match is written, an address
/// keeps its old one. They are removed shortest first: as long as its old longest match exists, an address keeps it. If allow
/// maps are in transition, a prefix without an identity has a temporary one: from now on if it is removed, until then if it is
/// new.
fn add_identities(progress: &Progress<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    let old = progress.old;
    let in_transition = progress.moves_in_transition(new);
    ops.reserve(new.identities.len() + new.prefixes.len());
    if in_transition {
        for (key, identity) in &old.prefixes {
            if *identity == Identity::NONE && !new.prefixes.contains_key(key) {
                ops.push(MapOp::SetPrefix(*key, LEAVING_NONE));
            }
        }
    }
    for (addr, identity) in &new.identities {
        if old.identities.get(addr) != Some(identity) {
            ops.push(MapOp::SetIdentity(*addr, *identity));
        }
    }
    // Keys are ordered by length first.
    for (key, identity) in new.prefixes.iter().rev() {
        if old.prefixes.get(key) != Some(identity) {
            let is_temporary = in_transition && *identity == Identity::NONE;
            let identity = if is_temporary { ENTERING_NONE } else { *identity };
            ops.push(MapOp::SetPrefix(*key, identity));
        }
    }
}

/// Allow maps with entries that deny, as they are while identities are removed.
fn switch_allow_maps(progress: &Progress<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    if !progress.moves_in_transition(new) {
        return;
    }
    let Progress { old, now, transitions } = progress;
    let mut leaving = only_in(old, new);
    leaving.insert(LEAVING_NONE);
    let mut known: HashMap<usize, Arc<AllowMap>> = HashMap::new();
    for (key, transition) in transitions {
        let map = known
            .entry(address_of(&**transition))
            .or_insert_with(|| transition.while_removing(&leaving));
        if now.allow.get(key) != Some(&*map) {
            ops.push(MapOp::SetAllow(*key, Arc::clone(map)));
        }
    }
}

/// Removes old identities, see [`add_identities`].
fn remove_identities(progress: &Progress<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    let old = progress.old;
    if progress.moves_in_transition(new) {
        for (key, identity) in &new.prefixes {
            if *identity == Identity::NONE && old.prefixes.get(key) != Some(identity) {
                ops.push(MapOp::SetPrefix(*key, *identity));
            }
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

fn finish_endpoints(Progress { now, .. }: &Progress<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    let unfinished =
        new.endpoints.iter().filter(|(ifindex, after)| now.endpoints.get(ifindex) != Some(after));
    ops.extend(unfinished.map(|(ifindex, after)| MapOp::SetEndpoint(*ifindex, after.clone())));
}

fn finish_allow_maps(Progress { now, .. }: &Progress<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
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

fn clean_up(Progress { now, .. }: &Progress<'_>, new: &MapState, ops: &mut Vec<MapOp>) {
    ops.extend(new.addresses.difference(&now.addresses).map(|key| MapOp::AddAddress(*key)));
    ops.extend(
        now.egress_marks
            .keys()
            .filter(|egress_mark| !new.egress_marks.contains_key(egress_mark))
            .map(|egress_mark| MapOp::RemoveEgressMark(*egress_mark)),
    );
    ops.extend(now.defer.difference(&new.defer).map(|addr| MapOp::RemoveDefer(*addr)));
    ops.extend(new.own_node.difference(&now.own_node).map(|key| MapOp::AddNode(*key)));
    ops.extend(now.own_node.difference(&new.own_node).map(|key| MapOp::RemoveNode(*key)));
    ops.extend(backends::end(now, new));
}
