//! The allow maps, each shared by all who are granted the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;
use netpol_common::ids::RuleId;

use super::peer_sets::PeerSets;
use crate::compile::allow_map;
use crate::compile::image::{AllowMap, AllowMapKey};
use crate::compile::numbering::{Numbering, PeerSetId, Signature};
use crate::resolve::{Grant, PeerSet, RuleRef};

/// Number of an allow map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MapId(u64);

/// All allow maps.
#[derive(Debug, Default)]
pub(super) struct AllowMaps {
    by_id: BTreeMap<MapId, Shared>,
    /// By where the grants lie, which the map keeps alive.
    by_grants: HashMap<Vec<usize>, MapId>,
    by_set: BTreeMap<PeerSetId, BTreeSet<MapId>>,
    /// How many maps a rule has a part in.
    rules: BTreeMap<RuleRef, usize>,
    /// Maps to be built, for the first time or anew.
    stale: BTreeSet<MapId>,
    next: u64,
}

#[derive(Debug)]
struct Shared {
    grants: Vec<Arc<Grant>>,
    /// Numbers of the grants' rules.
    rules: Vec<RuleId>,
    /// Numbers of the grants' peer sets, by where those lie.
    sets: HashMap<usize, PeerSetId>,
    users: BTreeSet<AllowMapKey>,
    map: Arc<AllowMap>,
}

fn places(grants: &[Arc<Grant>]) -> Vec<usize> {
    grants.iter().map(|grant| Arc::as_ptr(grant).addr()).collect()
}

impl AllowMaps {
    /// The map of these grants. It is made if there is none; then its peer sets have one user more, whom `enter` is
    /// told.
    pub(super) fn open(
        &mut self,
        key: AllowMapKey,
        grants: &[Arc<Grant>],
        numbering: &mut Numbering,
        mut enter: impl FnMut(PeerSetId, &Arc<PeerSet>),
    ) -> MapId {
        let places = places(grants);
        if let Some(id) = self.by_grants.get(&places) {
            if let Some(known) = self.by_id.get_mut(id) {
                known.users.insert(key);
            }
            return *id;
        }
        let id = MapId(self.next);
        self.next += 1;
        let mut sets = HashMap::new();
        let mut rules = Vec::with_capacity(grants.len());
        for grant in grants {
            *self.rules.entry(grant.rule.clone()).or_default() += 1;
            rules.push(numbering.rule_id(&grant.rule));
            let Some(peers) = &grant.peers else { continue };
            let set = numbering.peer_set(peers);
            if self.by_set.entry(set).or_default().insert(id) {
                enter(set, peers);
            }
            sets.insert(Arc::as_ptr(peers).addr(), set);
        }
        let shared = Shared {
            grants: grants.to_vec(),
            rules,
            sets,
            users: BTreeSet::from([key]),
            map: Arc::default(),
        };
        self.by_id.insert(id, shared);
        self.by_grants.insert(places, id);
        self.stale.insert(id);
        id
    }

    /// Ends a use. If it was the last one the map is gone, and `leave` is told its sets.
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
        let Some(Shared { grants, sets, .. }) = self.by_id.remove(&id) else { return };
        self.by_grants.remove(&places(&grants));
        self.stale.remove(&id);
        for set in sets.into_values().collect::<BTreeSet<_>>() {
            if let Some(maps) = self.by_set.get_mut(&set) {
                maps.remove(&id);
                if maps.is_empty() {
                    self.by_set.remove(&set);
                }
            }
            leave(set);
        }
        for grant in grants {
            if let Some(n_maps) = self.rules.get_mut(&grant.rule) {
                *n_maps -= 1;
                if *n_maps == 0 {
                    self.rules.remove(&grant.rule);
                    numbering.forget_rule(&grant.rule);
                }
            }
        }
    }

    /// An identity with this signature came or went.
    pub(super) fn touch(&mut self, signature: &Signature) {
        for set in signature {
            self.stale.extend(self.by_set.get(set).into_iter().flatten());
        }
    }

    /// Builds the maps that are stale. Returns the users of those whose content differs.
    pub(super) fn build(&mut self, peer_sets: &PeerSets) -> Vec<(AllowMapKey, Arc<AllowMap>)> {
        let mut rebuilt = Vec::new();
        for id in std::mem::take(&mut self.stale) {
            let Some(shared) = self.by_id.get_mut(&id) else { continue };
            let Shared { grants, rules, sets, users, map } = shared;
            let members = |peers: &Arc<PeerSet>| {
                let set = sets.get(&Arc::as_ptr(peers).addr());
                set.into_iter().flat_map(|set| peer_sets.identities(*set))
            };
            let built = allow_map::build(rules.iter().copied().zip(grants.iter()), members);
            if **map != built {
                *map = Arc::new(built);
                rebuilt.extend(users.iter().map(|key| (*key, Arc::clone(map))));
            }
        }
        rebuilt
    }

    pub(super) fn content(&self, id: MapId) -> Option<&Arc<AllowMap>> {
        self.by_id.get(&id).map(|shared| &shared.map)
    }
}
