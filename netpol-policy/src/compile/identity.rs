//! Which address has which identity.
//!
//! The signature of an address is the set of peer sets that hold it; each distinct signature is one identity.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::Identity;
use netpol_common::keys::{AllowKey, PrefixKey};

use super::map_state::{AllowMap, MapState};
use super::numbering::{Numbering, PeerSetId, Signature};
use super::prefixes::PrefixTable;
use crate::resolve::{AllowRule, PeerSet};
use crate::store::ClusterState;

/// The identities of one image.
pub(super) struct Identities {
    pub(super) addresses: BTreeMap<Addr, Identity>,
    pub(super) prefixes: BTreeMap<PrefixKey, Identity>,
    /// The identities whose addresses are in a peer set.
    pub(super) members: BTreeMap<Arc<PeerSet>, Vec<Identity>>,
}

/// Gives every address and prefix that a grant speaks of its identity.
pub(super) fn assign<'a>(
    state: &ClusterState,
    allow_rules: impl Iterator<Item = &'a Arc<AllowRule>>,
    numbering: &mut Numbering,
) -> Identities {
    let peer_sets: BTreeSet<&Arc<PeerSet>> =
        allow_rules.filter_map(|allow_rule| allow_rule.peers.as_ref()).collect();

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
        // What the prefixes say already needs no entry of its own.
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

/// The identities that must not keep their numbers: both images know them, some allow map gives them another meaning
/// in `next` than in `previous`, and addresses change hands at the same time. On the way an address could otherwise
/// meet a meaning that it has in neither image.
pub(super) fn ambiguous(previous: &MapState, next: &MapState) -> BTreeSet<Identity> {
    if previous.identities == next.identities && previous.prefixes == next.prefixes {
        return BTreeSet::new();
    }
    let held_before = previous.held_identities();
    let in_both: BTreeSet<Identity> = next
        .held_identities()
        .into_iter()
        .filter(|identity| held_before.contains(identity))
        .collect();
    let mut ambiguous = BTreeSet::new();
    for (key, before) in &previous.allow {
        if let Some(after) = next.allow.get(key) {
            ambiguous.extend(changed_meanings(before, after));
        }
    }
    ambiguous.retain(|identity| in_both.contains(identity));
    ambiguous
}

/// The identities for which two allow maps say different things.
pub(super) fn changed_meanings(
    before: &Arc<AllowMap>,
    after: &Arc<AllowMap>,
) -> BTreeSet<Identity> {
    let mut changed = BTreeSet::new();
    if Arc::ptr_eq(before, after) {
        return changed;
    }
    let meaning = |map: &AllowMap, key: &AllowKey| map.get(key).map(|value| value.verdict);
    for (key, value) in &**before {
        if meaning(after, key) != Some(value.verdict) {
            changed.insert(key.identity);
        }
    }
    changed.extend(after.keys().filter(|key| !before.contains_key(key)).map(|key| key.identity));
    changed
}
