//! The allow maps, each shared by all directions of endpoints with the same rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;
use netpol_common::ids::RuleId;
use netpol_common::keys::AllowValue;

use super::peer_sets::PeerSets;
use crate::compile::allow_map::{self, RuleInForce};
use crate::compile::capacity::{Lack, LeftOut};
use crate::compile::map_state::{AllowMap, AllowMapKey};
use crate::compile::numbering::{Numbering, PeerSetId, Signature};
use crate::resolve::{PeerSet, PolicyRule, RuleRef};

/// Number of an allow map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MapId(u64);

/// All allow maps.
#[derive(Debug, Default)]
pub(super) struct AllowMaps {
    by_id: BTreeMap<MapId, Shared>,
    /// By the value where no rule decides and the memory addresses of the rules, which the map keeps alive.
    by_rules: HashMap<(AllowValue, Vec<usize>), MapId>,
    /// The maps with rules that have this peer set, including rules that are left out.
    by_set: BTreeMap<PeerSetId, BTreeSet<MapId>>,
    /// The rules whose peers exceed the capacity.
    left_out: LeftOut,
    /// The rules that exceed the capacity of one map.
    cut: BTreeMap<MapId, BTreeSet<RuleRef>>,
    /// Maps were made or removed since the last [`Self::leave_out`].
    has_changed: bool,
    /// The number of maps that a rule is part of.
    rules: BTreeMap<RuleRef, usize>,
    /// Maps to build, for the first time or again.
    stale: BTreeSet<MapId>,
    next: u64,
}

#[derive(Debug)]
struct Shared {
    rules: Vec<Arc<PolicyRule>>,
    /// The number of each rule.
    rule_ids: Vec<RuleId>,
    /// The value where no rule decides.
    unmatched: AllowValue,
    /// The number of each rule's peer set, by its memory address.
    sets: HashMap<usize, PeerSetId>,
    users: BTreeSet<AllowMapKey>,
    map: Arc<AllowMap>,
}

impl Shared {
    /// The peer sets of rules that are not left out.
    fn sets_in_force(&self, left_out: &LeftOut) -> BTreeMap<PeerSetId, &Arc<PeerSet>> {
        let in_force = self.rules.iter().filter(|rule| !left_out.contains_key(&rule.source));
        let peers = in_force.filter_map(|rule| rule.peers.as_ref());
        let numbered =
            peers.filter_map(|peers| Some((*self.sets.get(&Arc::as_ptr(peers).addr())?, peers)));
        numbered.collect()
    }
}

fn pointers(rules: &[Arc<PolicyRule>]) -> Vec<usize> {
    rules.iter().map(|rule| Arc::as_ptr(rule).addr()).collect()
}

impl AllowMaps {
    /// The map of these rules with this value where none decides. A new map is made if there is none; then `enter` is called
    /// for each of its peer sets, which have one more user.
    pub(super) fn open(
        &mut self,
        key: AllowMapKey,
        (unmatched, rules): (AllowValue, &[Arc<PolicyRule>]),
        numbering: &mut Numbering,
        mut enter: impl FnMut(PeerSetId, &Arc<PeerSet>),
    ) -> MapId {
        let pointers = (unmatched, pointers(rules));
        if let Some(id) = self.by_rules.get(&pointers) {
            if let Some(existing) = self.by_id.get_mut(id) {
                existing.users.insert(key);
            }
            return *id;
        }
        let id = MapId(self.next);
        self.next += 1;
        let mut sets = HashMap::new();
        let mut rule_ids = Vec::with_capacity(rules.len());
        for rule in rules {
            *self.rules.entry(rule.source.clone()).or_default() += 1;
            rule_ids.push(numbering.rule_id(&rule.source));
            let Some(peers) = &rule.peers else { continue };
            let set = numbering.peer_set(peers);
            self.by_set.entry(set).or_default().insert(id);
            sets.insert(Arc::as_ptr(peers).addr(), set);
        }
        let shared = Shared {
            rules: rules.to_vec(),
            rule_ids,
            unmatched,
            sets,
            users: BTreeSet::from([key]),
            map: Arc::default(),
        };
        for (set, peers) in shared.sets_in_force(&self.left_out) {
            enter(set, peers);
        }
        self.has_changed = true;
        self.by_id.insert(id, shared);
        self.by_rules.insert(pointers, id);
        self.stale.insert(id);
        id
    }

    /// Ends a use. If it was the last one, the map is removed, and `leave` is called for each of its peer sets.
    pub(super) fn close(
        &mut self,
        key: AllowMapKey,
        id: MapId,
        numbering: &mut Numbering,
        mut leave: impl FnMut(PeerSetId),
    ) {
        let Some(shared) = self.by_id.get_mut(&id) else { return };
        shared.users.remove(&key);
        if !shared.users.is_empty() {
            return;
        }
        let Some(shared) = self.by_id.remove(&id) else { return };
        self.has_changed = true;
        self.by_rules.remove(&(shared.unmatched, pointers(&shared.rules)));
        self.stale.remove(&id);
        self.cut.remove(&id);
        shared.sets_in_force(&self.left_out).into_keys().for_each(&mut leave);
        let Shared { rules, sets, .. } = shared;
        for rule in rules {
            if let Some(peers) = &rule.peers
                && let Some(set) = sets.get(&Arc::as_ptr(peers).addr())
                && let Some(maps) = self.by_set.get_mut(set)
            {
                maps.remove(&id);
                if maps.is_empty() {
                    self.by_set.remove(set);
                    numbering.forget_peer_set(peers);
                }
            }
            if let Some(n_maps) = self.rules.get_mut(&rule.source) {
                *n_maps -= 1;
                if *n_maps == 0 {
                    self.rules.remove(&rule.source);
                    numbering.forget_rule(&rule.source);
                }
            }
        }
    }

    /// Whether maps were made or removed since the last call of [`Self::leave_out`].
    pub(super) fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// The rules of all maps with their peers, once for each map.
    pub(super) fn peers_of_rules(&self) -> impl Iterator<Item = (&RuleRef, &Arc<PeerSet>)> + Clone {
        let rules = self.by_id.values().flat_map(|shared| &shared.rules);
        rules.filter_map(|rule| Some((&rule.source, rule.peers.as_ref()?)))
    }

    /// The rules whose peers exceed the capacity.
    pub(super) fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// Leaves out exactly these rules. Returns the peer sets that have one more user and those that have one less, once for
    /// each map in which that is so.
    pub(super) fn leave_out(
        &mut self,
        left_out: LeftOut,
    ) -> (Vec<(PeerSetId, Arc<PeerSet>)>, Vec<PeerSetId>) {
        self.has_changed = false;
        let before = std::mem::replace(&mut self.left_out, left_out);
        let (mut entered, mut left) = (Vec::new(), Vec::new());
        if before == self.left_out {
            return (entered, left);
        }
        let now = &self.left_out;
        let is_concerned = |shared: &Shared| {
            let mut sources = shared.rules.iter().map(|rule| &rule.source);
            sources.any(|rule| before.contains_key(rule) != now.contains_key(rule))
        };
        for (id, shared) in self.by_id.iter().filter(|(_, shared)| is_concerned(shared)) {
            self.stale.insert(*id);
            let (old, new) = (shared.sets_in_force(&before), shared.sets_in_force(now));
            let begins = new.iter().filter(|(set, _)| !old.contains_key(set));
            entered.extend(begins.map(|(set, peers)| (*set, Arc::clone(peers))));
            left.extend(old.into_keys().filter(|set| !new.contains_key(set)));
        }
        (entered, left)
    }

    /// Every rule that is left out, because of its peers or in some map.
    pub(super) fn all_left_out(&self) -> LeftOut {
        let mut all = self.left_out.clone();
        for rule in self.cut.values().flatten() {
            all.entry(rule.clone()).or_insert(Lack::AllowEntries);
        }
        all
    }

    /// Whether a rule is left out, because of its peers or in this map.
    pub(super) fn lacks(&self, id: MapId, rule: &RuleRef) -> bool {
        self.left_out.contains_key(rule)
            || self.cut.get(&id).is_some_and(|rules| rules.contains(rule))
    }

    /// Marks the maps stale that have entries for an identity with this signature.
    pub(super) fn touch(&mut self, signature: &Signature) {
        for set in signature {
            self.stale.extend(self.by_set.get(set).into_iter().flatten());
        }
    }

    /// Builds the stale maps. Returns the users of those whose content has changed.
    pub(super) fn build(
        &mut self,
        peer_sets: &PeerSets,
        capacity: usize,
    ) -> Vec<(AllowMapKey, Arc<AllowMap>)> {
        let mut rebuilt = Vec::new();
        for id in std::mem::take(&mut self.stale) {
            let Some(shared) = self.by_id.get_mut(&id) else { continue };
            let Shared { rules, rule_ids, unmatched, sets, users, map } = shared;
            let members = |peers: &Arc<PeerSet>| {
                let set = sets.get(&Arc::as_ptr(peers).addr());
                set.into_iter().flat_map(|set| peer_sets.identities(*set))
            };
            let left_out = &self.left_out;
            let in_force = rule_ids
                .iter()
                .zip(rules.iter())
                .filter_map(|(id, rule)| RuleInForce::new(*id, rule, left_out));
            let built = allow_map::build(in_force, *unmatched, members, capacity);
            if built.left_out.is_empty() {
                self.cut.remove(&id);
            } else {
                self.cut.insert(id, built.left_out);
            }
            if **map != built.map {
                *map = Arc::new(built.map);
                rebuilt.extend(users.iter().map(|key| (*key, Arc::clone(map))));
            }
        }
        rebuilt
    }

    pub(super) fn content(&self, id: MapId) -> Option<&Arc<AllowMap>> {
        self.by_id.get(&id).map(|shared| &shared.map)
    }
}
