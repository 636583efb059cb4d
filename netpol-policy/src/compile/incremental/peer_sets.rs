//! The peer sets in force, and whom each label class's labels put into them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;
use ipnetwork::IpNetwork;
use netpol_common::addr::Addr;
use netpol_common::ids::Identity;

use crate::compile::numbering::{PeerSetId, Signature};
use crate::compile::prefixes::PrefixTable;
use crate::model::IpBlock;
use crate::resolve::PeerSet;
use crate::store::{ClusterState, LabelClassId};

/// Peer sets that some allow map speaks of.
#[derive(Debug, Default)]
pub(super) struct PeerSets {
    by_id: BTreeMap<PeerSetId, InForce>,
    /// The sets that hold a label class, whatever its pods' addresses; none are left out.
    by_label_class: HashMap<LabelClassId, Signature>,
    /// Sets with blocks that hold an address only if the right pod holds it.
    filtered: BTreeMap<PeerSetId, PrefixTable>,
    /// Label classes whose signature has changed since the last [`Self::take_touched`].
    touched: Vec<LabelClassId>,
    /// Where blocks came or went since the last [`Self::take_blocks`]. True if some are in the common prefix table.
    blocks: (Vec<IpNetwork>, bool),
    /// Blocks and exceptions of all sets for the common prefix table, those of several sets counted as often.
    n_blocks: usize,
}

#[derive(Debug)]
struct InForce {
    peers: Arc<PeerSet>,
    n_users: usize,
    label_classes: Vec<LabelClassId>,
    /// The identities whose signature has this set.
    identities: BTreeSet<Identity>,
}

impl PeerSets {
    /// One more user of a set.
    pub(super) fn enter(&mut self, state: &ClusterState, id: PeerSetId, peers: &Arc<PeerSet>) {
        if let Some(known) = self.by_id.get_mut(&id) {
            known.n_users += 1;
            return;
        }
        let label_classes = peers.label_classes(state);
        for label_class in &label_classes {
            insert(self.by_label_class.entry(*label_class).or_default(), id);
        }
        self.touched.extend(&label_classes);
        let filtered: Vec<(PeerSetId, &IpBlock)> =
            peers.filtered_blocks().map(|block| (id, block)).collect();
        if !filtered.is_empty() {
            self.filtered.insert(id, PrefixTable::new(&filtered));
        }
        self.note_blocks(peers);
        self.n_blocks += peers.n_blocks();
        let peers = Arc::clone(peers);
        let in_force = InForce { peers, n_users: 1, label_classes, identities: BTreeSet::new() };
        self.by_id.insert(id, in_force);
    }

    /// One user less.
    pub(super) fn leave(&mut self, id: PeerSetId) {
        let Some(known) = self.by_id.get_mut(&id) else { return };
        known.n_users -= 1;
        if known.n_users > 0 {
            return;
        }
        let Some(InForce { peers, label_classes, .. }) = self.by_id.remove(&id) else { return };
        for label_class in &label_classes {
            self.take_from(*label_class, id);
        }
        self.touched.extend(label_classes);
        self.filtered.remove(&id);
        self.note_blocks(&peers);
        self.n_blocks -= peers.n_blocks();
    }

    /// At most so many blocks and exceptions are in the common prefix table.
    pub(super) fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    fn note_blocks(&mut self, peers: &PeerSet) {
        let (blocks, is_common) = &mut self.blocks;
        blocks.extend(peers.filtered_blocks().map(|block| block.cidr));
        let n_before = blocks.len();
        blocks.extend(peers.blocks().map(|block| block.cidr));
        *is_common |= blocks.len() > n_before;
    }

    fn take_from(&mut self, label_class: LabelClassId, id: PeerSetId) {
        if let Some(signature) = self.by_label_class.get_mut(&label_class) {
            remove(signature, id);
            if signature.is_empty() {
                self.by_label_class.remove(&label_class);
            }
        }
    }

    /// Asks the sets again about label classes of one namespace: those that came or went, or all if its labels changed.
    pub(super) fn review(
        &mut self,
        state: &ClusterState,
        namespace: &str,
        label_classes: impl IntoIterator<Item = LabelClassId>,
    ) {
        let concerning = |set: &&PeerSetId| {
            let set = self.by_id.get(set);
            set.is_some_and(|set| set.peers.concerns(state, namespace))
        };
        let concerning: Vec<PeerSetId> = self.by_id.keys().filter(concerning).copied().collect();
        for id in label_classes {
            let label_class =
                state.label_class(id).filter(|label_class| *label_class.namespace == *namespace);
            let holds = |set: &&PeerSetId| {
                let set = self.by_id.get(set);
                set.zip(label_class)
                    .is_some_and(|(set, label_class)| set.peers.holds(state, label_class))
            };
            let signature: Signature = concerning.iter().filter(holds).copied().collect();
            self.set_signature(id, signature);
        }
    }

    fn set_signature(&mut self, id: LabelClassId, signature: Signature) {
        let before = self.by_label_class.remove(&id).unwrap_or_default();
        if signature != before {
            self.touched.push(id);
            for gone in before.iter().filter(|set| signature.binary_search(set).is_err()) {
                if let Some(set) = self.by_id.get_mut(gone) {
                    remove(&mut set.label_classes, id);
                }
            }
            for new in signature.iter().filter(|set| before.binary_search(set).is_err()) {
                if let Some(set) = self.by_id.get_mut(new) {
                    insert(&mut set.label_classes, id);
                }
            }
        }
        if !signature.is_empty() {
            self.by_label_class.insert(id, signature);
        }
    }

    pub(super) fn take_touched(&mut self) -> Vec<LabelClassId> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    pub(super) fn take_blocks(&mut self) -> (Vec<IpNetwork>, bool) {
        std::mem::take(&mut self.blocks)
    }

    /// The blocks whose addresses are in a set, whoever holds them.
    pub(super) fn common_blocks(&self) -> Vec<(PeerSetId, &IpBlock)> {
        let sets = self.by_id.iter();
        sets.flat_map(|(id, set)| set.peers.blocks().map(|block| (*id, block))).collect()
    }

    /// Whether there is any pod in any set because of what it is.
    pub(super) fn may_hold(&self, label_class: LabelClassId) -> bool {
        self.by_label_class.contains_key(&label_class) || !self.filtered.is_empty()
    }

    /// Whether the sets that hold a pod's address can depend on blocks that are not in the common prefix table.
    pub(super) fn asks_blocks(&self) -> bool {
        !self.filtered.is_empty()
    }

    /// The sets that hold an address with its pod of this label class, sorted; `None` if no more than the prefixes say.
    pub(super) fn signature(
        &self,
        state: &ClusterState,
        addr: Addr,
        label_class: LabelClassId,
        prefixes: &PrefixTable,
    ) -> Option<Signature> {
        if !self.may_hold(label_class) {
            return None;
        }
        let mut signature = self.by_label_class.get(&label_class).cloned().unwrap_or_default();
        for (id, blocks) in &self.filtered {
            let passes = || {
                let peers = self.by_id.get(id).map(|set| &set.peers);
                peers
                    .zip(state.label_class(label_class))
                    .is_some_and(|(peers, of)| peers.passes_filter(of))
            };
            if !blocks.lookup(addr).is_empty() && passes() {
                signature.push(*id);
            }
        }
        let from_blocks = prefixes.lookup(addr);
        signature.extend(from_blocks);
        signature.sort_unstable();
        signature.dedup();
        (signature != from_blocks).then_some(signature)
    }

    /// Notes that there is an identity with this signature.
    pub(super) fn add_identity(&mut self, signature: &Signature, identity: Identity) {
        for id in signature {
            if let Some(set) = self.by_id.get_mut(id) {
                set.identities.insert(identity);
            }
        }
    }

    /// Undoes [`Self::add_identity`].
    pub(super) fn remove_identity(&mut self, signature: &Signature, identity: Identity) {
        for id in signature {
            if let Some(set) = self.by_id.get_mut(id) {
                set.identities.remove(&identity);
            }
        }
    }

    /// The identities whose addresses are in a set.
    pub(super) fn identities(&self, id: PeerSetId) -> impl Iterator<Item = &Identity> {
        self.by_id.get(&id).into_iter().flat_map(|set| &set.identities)
    }
}

/// Adds a number to a sorted list, at its end as a rule.
fn insert<Id: Ord>(ids: &mut Vec<Id>, id: Id) {
    if let Err(place) = ids.binary_search(&id) {
        ids.insert(place, id);
    }
}

fn remove<Id: Ord + Copy>(ids: &mut Vec<Id>, id: Id) {
    if let Ok(place) = ids.binary_search(&id) {
        ids.remove(place);
    }
}
