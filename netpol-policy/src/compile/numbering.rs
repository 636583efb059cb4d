//! The numbers of peer sets, identities and rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;
use netpol_common::ids::{Identity, RuleId};

use super::map_state::MapState;
use crate::resolve::{PeerSet, RuleRef};

/// Number of a peer set; only within one [`Numbering`].
pub(super) type PeerSetId = u32;
/// The peer sets that hold an address, sorted.
pub(super) type Signature = Vec<PeerSetId>;

/// Numbers that stand for [`Identity::NONE`] while `dataplane` changes the maps. No signature gets them.
pub const TEMPORARY: [Identity; 2] = [Identity::FIRST, Identity(Identity::FIRST.0 + 1)];

/// The first number of a signature.
const FIRST: Identity = Identity(Identity::FIRST.0 + 2);

/// The first number of a rule.
const FIRST_RULE: RuleId = RuleId(1);

/// The numbers in use. A number is not used again while a map state can still hold it.
#[derive(Debug)]
pub struct Numbering {
    peer_sets: HashMap<Arc<PeerSet>, PeerSetId>,
    identities: BTreeMap<Signature, Identity>,
    rules: BTreeMap<RuleRef, RuleId>,
    rules_by_id: BTreeMap<RuleId, RuleRef>,
    next_peer_set: PeerSetId,
    next_identity: Identity,
    next_rule: RuleId,
}

impl Default for Numbering {
    fn default() -> Self {
        Self::after(FIRST, FIRST_RULE)
    }
}

impl Numbering {
    /// Starts at this identity and this rule, which must be above all of those in maps of an earlier run.
    pub fn after(next_identity: Identity, next_rule: RuleId) -> Self {
        Self {
            peer_sets: HashMap::new(),
            identities: BTreeMap::new(),
            rules: BTreeMap::new(),
            rules_by_id: BTreeMap::new(),
            next_peer_set: 0,
            next_identity: next_identity.max(FIRST),
            next_rule: next_rule.max(FIRST_RULE),
        }
    }

    /// The rule behind a number, if it is in force.
    pub fn rule(&self, id: RuleId) -> Option<&RuleRef> {
        self.rules_by_id.get(&id)
    }

    /// Every rule in force with its number.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &RuleRef)> {
        self.rules_by_id.iter().map(|(id, rule)| (*id, rule))
    }

    /// How many rules have got numbers so far.
    pub fn n_numbered_rules(&self) -> u32 {
        self.next_rule.0
    }

    pub(super) fn peer_set(&mut self, peers: &Arc<PeerSet>) -> PeerSetId {
        if let Some(id) = self.peer_sets.get(peers) {
            return *id;
        }
        let id = self.next_peer_set;
        self.next_peer_set = self.next_peer_set.wrapping_add(1);
        self.peer_sets.insert(Arc::clone(peers), id);
        id
    }

    pub(super) fn known_peer_set(&self, peers: &PeerSet) -> Option<PeerSetId> {
        self.peer_sets.get(peers).copied()
    }

    pub(super) fn identity(&mut self, signature: &[PeerSetId]) -> Identity {
        if signature.is_empty() {
            return Identity::NONE;
        }
        if let Some(identity) = self.identities.get(signature) {
            return *identity;
        }
        let identity = self.next_identity;
        // After four billion identities the numbers start again, far from those still in use.
        self.next_identity =
            if identity < Identity::LAST { Identity(identity.0 + 1) } else { FIRST };
        self.identities.insert(signature.to_vec(), identity);
        identity
    }

    pub(super) fn rule_id(&mut self, rule: &RuleRef) -> RuleId {
        if let Some(id) = self.rules.get(rule) {
            return *id;
        }
        let id = self.next_rule;
        self.next_rule = RuleId(id.0.checked_add(1).unwrap_or(FIRST_RULE.0));
        self.rules.insert(rule.clone(), id);
        self.rules_by_id.insert(id, rule.clone());
        id
    }

    /// Drops these identities: their signatures get fresh numbers.
    pub(super) fn retire(&mut self, identities: &BTreeSet<Identity>) {
        self.identities.retain(|_, identity| !identities.contains(identity));
    }

    /// Drops the identity of a signature that no address or prefix has any more.
    pub(super) fn forget_identity(&mut self, signature: &Signature) {
        self.identities.remove(signature);
    }

    /// Assigns a fresh number to a signature.
    pub(super) fn renew_identity(&mut self, signature: &Signature) -> Identity {
        self.identities.remove(signature);
        self.identity(signature)
    }

    /// Drops a peer set that is not in force any more.
    pub(super) fn forget_peer_set(&mut self, peers: &PeerSet) {
        self.peer_sets.remove(peers);
    }

    /// Drops a rule that is not in force any more.
    pub(super) fn forget_rule(&mut self, rule: &RuleRef) {
        if let Some(id) = self.rules.remove(rule) {
            self.rules_by_id.remove(&id);
        }
    }

    /// Drops all assignments but continues with unused numbers, because the content of the maps is unknown.
    pub(super) fn begin_anew(&mut self) {
        *self = Self {
            next_peer_set: self.next_peer_set,
            ..Self::after(self.next_identity, self.next_rule)
        };
    }

    /// Drops the assignments that `map_state` does not use.
    pub(super) fn retain(&mut self, map_state: &MapState) {
        let held = map_state.held_identities();
        self.identities.retain(|_, identity| held.contains(identity));
        let used: BTreeSet<PeerSetId> = self.identities.keys().flatten().copied().collect();
        self.peer_sets.retain(|_, id| used.contains(id));
        let maps: BTreeMap<_, _> =
            map_state.allow.values().map(|map| (Arc::as_ptr(map), map)).collect();
        let rules: BTreeSet<RuleId> =
            maps.values().flat_map(|map| map.values()).map(|value| value.rule).collect();
        self.rules.retain(|_, id| rules.contains(id));
        self.rules_by_id.retain(|id, _| rules.contains(id));
    }
}
