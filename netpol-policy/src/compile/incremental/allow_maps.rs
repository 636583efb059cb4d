//! The allow maps, each shared by all directions of endpoints with the same rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;
use netpol_common::ids::RuleId;

use super::peer_sets::PeerSets;
use crate::compile::allow_map::{self, RuleInForce};
use crate::compile::capacity::{self, Capacities, Lack, LeftOut};
use crate::compile::map_state::{AllowMap, AllowMapKey};
use crate::compile::numbering::{Numbering, PeerSetId, Signature};
use crate::resolve::{DefaultVerdict, PeerSet, PolicyRule, RuleList, RuleRef};
use smallvec::SmallVec;

/// Most peer sets are in one map.
type Few<T> = SmallVec<[T; 2]>;

/// Number of an allow map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MapId(u64);

/// All allow maps.
#[derive(Debug, Default)]
pub(super) struct AllowMaps {
    by_id: BTreeMap<MapId, Shared>,
    /// By the verdict where no rule decides and the memory address of the list of rules, which the map keeps alive.
    by_list: HashMap<(DefaultVerdict, usize), MapId>,
    /// By the same verdict and the memory addresses of the rules.
    by_rules: HashMap<(DefaultVerdict, Vec<usize>), MapId>,
    /// The maps with rules that have this peer set, including rules that are left out.
    by_set: HashMap<PeerSetId, Few<MapId>>,
    /// The rules whose peers exceed the capacity.
    left_out: LeftOut,
    /// The rules whose entries exceed the capacity of all maps together.
    crowded_out: LeftOut,
    /// The number of entries that the rules of all maps need, rules in [`Self::left_out`] excepted.
    n_wanted: usize,
    /// Maps were removed since the last [`Self::crowd_out`].
    has_lost: bool,
    /// The rules that exceed the capacity of one map.
    cut: BTreeMap<MapId, BTreeSet<RuleRef>>,
    /// Every rule that is left out for whatever reason, as of the last [`Self::build`].
    all_left_out: Arc<LeftOut>,
    /// The rules in [`Self::left_out`], [`Self::crowded_out`] or [`Self::cut`] have changed since.
    is_renewed: bool,
    /// Maps were made or removed since the last [`Self::leave_out`].
    has_changed: bool,
    /// The number of maps that a rule is part of.
    rules: BTreeMap<RuleRef, usize>,
    /// Maps to build, for the first time or again.
    stale: BTreeSet<MapId>,
    next: u64,
}

/// What a map has besides a rule.
#[derive(Clone, Copy, Debug)]
struct Part {
    id: RuleId,
    /// Number of entries for each peer.
    n_for_each: usize,
    /// The number of the rule's peers.
    set: Option<PeerSetId>,
}

#[derive(Debug)]
struct Shared {
    rules: RuleList,
    /// The same rules, by position.
    parts: Vec<Part>,
    /// The positions of those whose peers do not exceed the capacity.
    kept: Vec<usize>,
    /// Its part of [`AllowMaps::n_wanted`].
    n_wanted: usize,
    /// The verdict where no rule decides.
    default: DefaultVerdict,
    users: BTreeSet<AllowMapKey>,
    map: Arc<AllowMap>,
}

impl Shared {
    /// The positions of the rules that are not left out.
    fn positions_without(&self, left_out: &LeftOut) -> Vec<usize> {
        if left_out.is_empty() {
            return (0..self.rules.len()).collect();
        }
        let rules = self.rules.iter().enumerate();
        let kept = rules.filter(|(_, rule)| !left_out.contains_key(&rule.source));
        kept.map(|(position, _)| position).collect()
    }

    fn at(&self, positions: &[usize]) -> impl Iterator<Item = (&Arc<PolicyRule>, &Part)> {
        positions
            .iter()
            .filter_map(|position| Some((self.rules.get(*position)?, self.parts.get(*position)?)))
    }

    /// The rules that are not left out, with the number of entries that each needs.
    fn wanted(&self, peer_sets: &PeerSets) -> impl Iterator<Item = (&Arc<PolicyRule>, usize)> {
        self.at(&self.kept).map(|(rule, part)| {
            let n_peers = part.set.map_or(1, |set| peer_sets.n_identities(set));
            (rule, n_peers.saturating_mul(part.n_for_each))
        })
    }

    /// The peer sets of rules at some positions.
    fn sets_at(&self, positions: &[usize]) -> BTreeMap<PeerSetId, &Arc<PeerSet>> {
        let sets = self.at(positions);
        sets.filter_map(|(rule, part)| Some((part.set?, rule.peers.as_ref()?))).collect()
    }
}

fn address_of(rules: &RuleList) -> usize {
    rules.as_ptr().addr()
}

fn pointers(rules: &[Arc<PolicyRule>]) -> Vec<usize> {
    rules.iter().map(|rule| Arc::as_ptr(rule).addr()).collect()
}

impl AllowMaps {
    /// The map of these rules with this verdict where none decides. A new map is made if there is none; then `enter` is called
    /// for each of its peer sets, which have one more user.
    pub(super) fn open(
        &mut self,
        key: AllowMapKey,
        (default, rules): (DefaultVerdict, &RuleList),
        numbering: &mut Numbering,
        mut enter: impl FnMut(PeerSetId, &Arc<PeerSet>),
    ) -> MapId {
        let list = (default, address_of(rules));
        if let Some(id) = self.by_list.get(&list) {
            if let Some(existing) = self.by_id.get_mut(id) {
                existing.users.insert(key);
            }
            return *id;
        }
        let pointers = (default, pointers(rules));
        if let Some(id) = self.by_rules.get(&pointers) {
            if let Some(existing) = self.by_id.get_mut(id) {
                existing.users.insert(key);
                self.by_list.remove(&(default, address_of(&existing.rules)));
                existing.rules = Arc::clone(rules);
                self.by_list.insert(list, *id);
            }
            return *id;
        }
        let id = MapId(self.next);
        self.next += 1;
        let mut parts = Vec::with_capacity(rules.len());
        for rule in rules.iter() {
            if let Some(n_maps) = self.rules.get_mut(&rule.source) {
                *n_maps += 1;
            } else {
                self.rules.insert(rule.source.clone(), 1);
            }
            let set = rule.peers.as_ref().map(|peers| numbering.peer_set(peers));
            if let Some(set) = set {
                let maps = self.by_set.entry(set).or_default();
                if maps.last() != Some(&id) {
                    maps.push(id);
                }
            }
            parts.push(Part {
                id: numbering.rule_id(&rule.source),
                n_for_each: allow_map::n_entries(&rule.ports),
                set,
            });
        }
        let mut shared = Shared {
            rules: Arc::clone(rules),
            parts,
            kept: Vec::new(),
            n_wanted: 0,
            default,
            users: BTreeSet::from([key]),
            map: Arc::default(),
        };
        shared.kept = shared.positions_without(&self.left_out);
        for (set, peers) in shared.sets_at(&shared.kept) {
            enter(set, peers);
        }
        self.has_changed = true;
        self.by_id.insert(id, shared);
        self.by_list.insert(list, id);
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
        self.has_lost = true;
        self.n_wanted = self.n_wanted.saturating_sub(shared.n_wanted);
        self.by_list.remove(&(shared.default, address_of(&shared.rules)));
        self.by_rules.remove(&(shared.default, pointers(&shared.rules)));
        self.stale.remove(&id);
        self.is_renewed |= self.cut.remove(&id).is_some();
        shared.sets_at(&shared.kept).into_keys().for_each(&mut leave);
        let Shared { rules, parts, .. } = shared;
        for (rule, part) in rules.iter().zip(parts) {
            if let Some(peers) = &rule.peers
                && let Some(set) = part.set
                && let Some(maps) = self.by_set.get_mut(&set)
            {
                maps.retain(|map| *map != id);
                if maps.is_empty() {
                    self.by_set.remove(&set);
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

    /// The rules of all maps with the numbers of their peers, once for each map.
    pub(super) fn rules(&self) -> impl Iterator<Item = (&Arc<PolicyRule>, Option<PeerSetId>)> {
        self.by_id.values().flat_map(|shared| {
            shared.rules.iter().zip(&shared.parts).map(|(rule, part)| (rule, part.set))
        })
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
        self.is_renewed = true;
        let now = &self.left_out;
        for (id, shared) in &mut self.by_id {
            let kept = shared.positions_without(now);
            if kept == shared.kept {
                continue;
            }
            self.stale.insert(*id);
            let (old, new) = (shared.sets_at(&shared.kept), shared.sets_at(&kept));
            let begins = new.iter().filter(|(set, _)| !old.contains_key(set));
            entered.extend(begins.map(|(set, peers)| (*set, Arc::clone(peers))));
            left.extend(old.into_keys().filter(|set| !new.contains_key(set)));
            shared.kept = kept;
        }
        (entered, left)
    }

    /// Every rule that is left out, because of its peers, because of its entries, or in some map. The same list as before, and not an
    /// equal one, if nothing has changed.
    pub(super) fn all_left_out(&self) -> &Arc<LeftOut> {
        &self.all_left_out
    }

    fn renew_all_left_out(&mut self) {
        if !std::mem::take(&mut self.is_renewed) {
            return;
        }
        let mut all = self.left_out.clone();
        all.extend(self.crowded_out.iter().map(|(rule, lack)| (rule.clone(), *lack)));
        for rule in self.cut.values().flatten() {
            all.entry(rule.clone()).or_insert(Lack::AllowEntries);
        }
        if all != *self.all_left_out {
            self.all_left_out = Arc::new(all);
        }
    }

    /// Whether a rule is left out, because of its peers, because of its entries, or in this map.
    pub(super) fn lacks(&self, id: MapId, rule: &RuleRef) -> bool {
        self.left_out.contains_key(rule)
            || self.crowded_out.contains_key(rule)
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
        capacities: &Capacities,
    ) -> Vec<(AllowMapKey, Arc<AllowMap>)> {
        self.crowd_out(peer_sets, capacities);
        let capacity = capacities.n_allow_entries;
        let mut rebuilt = Vec::new();
        for id in std::mem::take(&mut self.stale) {
            let Some(shared) = self.by_id.get_mut(&id) else { continue };
            let Shared { rules, parts, kept: _, n_wanted: _, default, users, map } = shared;
            let members = |set: PeerSetId| peer_sets.identities(set);
            let left_out = [&self.left_out, &self.crowded_out];
            let rules = parts.iter().zip(rules.iter());
            let in_force: Vec<_> = rules
                .filter_map(|(part, rule)| RuleInForce::new(part.id, rule, part.set, left_out))
                .collect();
            let built = allow_map::build(in_force.iter().copied(), *default, members, capacity);
            self.is_renewed |= if built.left_out.is_empty() {
                self.cut.remove(&id).is_some()
            } else {
                self.cut.insert(id, built.left_out);
                true
            };
            if **map != built.map {
                *map = Arc::new(built.map);
                rebuilt.extend(users.iter().map(|key| (*key, Arc::clone(map))));
            }
        }
        self.renew_all_left_out();
        rebuilt
    }

    /// Counts the entries of the stale maps, and leaves out the rules that exceed the capacity of all maps together. The maps
    /// of rules for which that changes are stale too.
    fn crowd_out(&mut self, peer_sets: &PeerSets, capacities: &Capacities) {
        let Self { by_id, stale, crowded_out, n_wanted, has_lost, is_renewed, .. } = self;
        for id in &*stale {
            let Some(shared) = by_id.get_mut(id) else { continue };
            let n_now = shared.wanted(peer_sets).map(|(_, n)| n).sum();
            *n_wanted = n_wanted.saturating_sub(shared.n_wanted).saturating_add(n_now);
            shared.n_wanted = n_now;
        }
        let is_same = !std::mem::take(has_lost) && stale.is_empty();
        if is_same || (capacities.n_entries.fits(*n_wanted) && crowded_out.is_empty()) {
            return;
        }
        // By memory address first, because each rule can be in very many maps.
        let mut by_address: HashMap<usize, (&RuleRef, usize)> = HashMap::new();
        for (rule, n_wanted) in by_id.values().flat_map(|map| map.wanted(peer_sets)) {
            let known = by_address.entry(Arc::as_ptr(rule).addr());
            known.or_insert((&rule.source, 0)).1 += n_wanted;
        }
        let mut wants: BTreeMap<&RuleRef, usize> = BTreeMap::new();
        by_address.into_values().for_each(|(rule, n_wanted)| {
            *wants.entry(rule).or_default() += n_wanted;
        });
        let of_all = capacity::crowded_out(&Vec::from_iter(wants), capacities);
        let before = std::mem::replace(crowded_out, of_all);
        *is_renewed |= before != *crowded_out;
        let now = &*crowded_out;
        let is_concerned = |shared: &Shared| {
            let mut sources = shared.rules.iter().map(|rule| &rule.source);
            sources.any(|rule| before.contains_key(rule) != now.contains_key(rule))
        };
        let concerned = by_id.iter().filter(|(_, shared)| is_concerned(shared));
        stale.extend(concerned.map(|(id, _)| *id));
    }

    pub(super) fn content(&self, id: MapId) -> Option<&Arc<AllowMap>> {
        self.by_id.get(&id).map(|shared| &shared.map)
    }
}
