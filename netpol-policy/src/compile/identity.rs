//! The identities of addresses and prefixes.
//!
//! The signature of an address is the set of peer sets that hold it. Each distinct signature is one identity.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashSet;
use netpol_common::addr::Addr;
use netpol_common::ids::Identity;
use netpol_common::keys::{AllowKey, PrefixKey};

use super::map_state::{AllowMap, DirectionState, MapState};
use super::numbering::{Numbering, PeerSetId, Signature};
use super::prefixes::PrefixTable;
use crate::resolve::{PeerSet, PolicyRule};
use crate::store::ClusterState;

/// The identities of one map state.
pub(super) struct Identities {
    pub(super) addresses: BTreeMap<Addr, Identity>,
    pub(super) prefixes: BTreeMap<PrefixKey, Identity>,
    /// The identities whose addresses are in a peer set.
    pub(super) members: BTreeMap<Arc<PeerSet>, Vec<Identity>>,
}

/// Assigns identities to all addresses and prefixes that the peers of these rules hold.
pub(super) fn assign<'a>(
    state: &ClusterState,
    rules: impl Iterator<Item = &'a Arc<PolicyRule>>,
    numbering: &mut Numbering,
) -> Identities {
    let peer_sets: BTreeSet<&Arc<PeerSet>> = rules.filter_map(|rule| rule.peers.as_ref()).collect();

    let mut by_selector: BTreeMap<IpAddr, Signature> = BTreeMap::new();
    let mut blocks = Vec::new();
    for peers in &peer_sets {
        let id = numbering.peer_set(peers);
        for address in peers.pod_addresses(state) {
            by_selector.entry(address).or_default().push(id);
        }
        blocks.extend(peers.blocks().map(|block| (id, block)));
    }
    let prefixes = PrefixTable::new(&blocks);

    let mut members: BTreeMap<PeerSetId, BTreeSet<Identity>> = BTreeMap::new();
    let mut number = |signature: &[PeerSetId]| {
        let identity = numbering.identity(signature);
        for id in signature {
            members.entry(*id).or_default().insert(identity);
        }
        identity
    };
    let by_prefix = prefixes.iter().map(|(key, signature)| (key, number(signature))).collect();
    let mut by_address = BTreeMap::new();
    for (address, mut signature) in by_selector {
        let addr = Addr::from(address);
        let from_blocks = prefixes.lookup(addr);
        signature.extend(from_blocks);
        signature.sort_unstable();
        signature.dedup();
        // An address with the signature of its longest prefix needs no entry of its own.
        if signature != from_blocks {
            by_address.insert(addr, number(&signature));
        }
    }
    let by_peer_set = peer_sets
        .into_iter()
        .filter_map(|peers| {
            let members = members.get(&numbering.known_peer_set(peers)?)?;
            Some((Arc::clone(peers), members.iter().copied().collect()))
        })
        .collect();
    Identities { addresses: by_address, prefixes: by_prefix, members: by_peer_set }
}

/// The identities that must not keep their numbers: both map states hold them, some allow map gives them other verdicts in
/// `next` than in `previous`, and addresses change their identity at the same time. Otherwise an address could meet a verdict
/// during the change that it has in neither map state.
pub(crate) fn ambiguous(previous: &MapState, next: &MapState) -> BTreeSet<Identity> {
    if previous.identities == next.identities && previous.prefixes == next.prefixes {
        return BTreeSet::new();
    }
    let held_before = previous.held_identities();
    let mut in_both = next.held_identities();
    in_both.retain(|identity| held_before.contains(identity));
    let Changed::These(mut ambiguous) = changed_by_update(previous, next) else { return in_both };
    ambiguous.retain(|identity| in_both.contains(identity));
    ambiguous
}

/// The identities that have other verdicts in `after` than in `before` in an allow map of both. Endpoints that share their maps
/// are compared once.
pub(super) fn changed_by_update(before: &MapState, after: &MapState) -> Changed {
    let mut compared = HashSet::new();
    let mut all_changed = BTreeSet::new();
    for key in before.allow.keys() {
        let Some((before, after)) = before.direction(key).zip(after.direction(key)) else {
            continue;
        };
        if compared.insert([&before, &after].map(|of| (Arc::as_ptr(of.map), of.is_audited))) {
            match changed_meanings(&before, &after) {
                Changed::These(changed) => all_changed.extend(changed),
                Changed::All => return Changed::All,
            }
        }
    }
    Changed::These(all_changed)
}

/// The identities that have other verdicts in one allow map than in another.
pub(super) enum Changed {
    /// These, among others that nobody holds.
    These(BTreeSet<Identity>),
    /// Possibly any: the verdicts without a matching entry change.
    All,
}

/// Compares the verdicts of two states of one direction.
///
/// Where all entries allow, a change of the entries of [`Identity::ANY`] does not count: the union of old and new entries is
/// right for every identity in between. Entries that deny have no such union (see `dataplane::transition`).
fn changed_meanings(before: &DirectionState<'_>, after: &DirectionState<'_>) -> Changed {
    let mut changed = BTreeSet::new();
    if !Arc::ptr_eq(before.map, after.map) {
        let meaning = |map: &AllowMap, key: &AllowKey| map.get(key).map(|value| value.verdict);
        for (key, value) in &**before.map {
            if meaning(after.map, key) != Some(value.verdict) {
                changed.insert(key.identity);
            }
        }
        let new = after.map.keys().filter(|key| !before.map.contains_key(key));
        changed.extend(new.map(|key| key.identity));
    }
    let is_default_changed =
        changed.contains(&Identity::ANY) || before.is_audited != after.is_audited;
    if is_default_changed && !(before.only_allows() && after.only_allows()) {
        Changed::All
    } else {
        Changed::These(changed)
    }
}
