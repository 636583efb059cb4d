//! The peer sets in force, and the label classes whose pods each of them holds.

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

/// The peer sets of the rules of all allow maps.
#[derive(Debug, Default)]
pub(super) struct PeerSets {
    by_id: BTreeMap<PeerSetId, InForce>,
    /// The sets that hold a label class regardless of the addresses of its pods. Rules that are left out have none here.
    by_label_class: HashMap<LabelClassId, Signature>,
    /// Sets with blocks that hold an address only if a pod with matching port names owns it.
    filtered: BTreeMap<PeerSetId, PrefixTable>,
    /// Label classes whose signature has changed since the last [`Self::take_touched`].
    touched: Vec<LabelClassId>,
    /// The blocks added or removed since the last [`Self::take_blocks`]. True if some are in the common prefix table.
    blocks: (Vec<IpNetwork>, bool),
    /// Number of blocks and exceptions in the common prefix table; one of several sets counts once for each.
    n_blocks: usize,
    /// Sets whose label classes and blocks are not known yet, because they may exceed the capacity.
    pending: BTreeSet<PeerSetId>,
    /// Upper bound of [`PeerSet::n_comparisons`] of all sets.
    n_comparisons: usize,
    /// [`PeerSet::n_requirements`] of all sets.
    n_requirements: usize,
    /// Label classes or namespaces have changed since the last [`Self::take_reviewed`].
    is_reviewed: bool,
}

#[derive(Debug)]
struct InForce {
    peers: Arc<PeerSet>,
    n_users: usize,
    /// Its part of [`PeerSets::n_comparisons`].
    n_comparisons: usize,
    label_classes: Vec<LabelClassId>,
    /// The identities whose signature has this set.
    identities: BTreeSet<Identity>,
}

impl PeerSets {
    /// Adds a user of a set. A new set holds nobody until [`Self::evaluate`].
    pub(super) fn enter(&mut self, state: &ClusterState, id: PeerSetId, peers: &Arc<PeerSet>) {
        if let Some(known) = self.by_id.get_mut(&id) {
            known.n_users += 1;
            return;
        }
        let n_comparisons = peers.n_comparisons(state);
        self.n_comparisons = self.n_comparisons.saturating_add(n_comparisons);
        self.n_requirements = self.n_requirements.saturating_add(peers.n_requirements());
        self.n_blocks += peers.n_blocks();
        self.pending.insert(id);
        let in_force = InForce {
            peers: Arc::clone(peers),
            n_users: 1,
            n_comparisons,
            label_classes: Vec::new(),
            identities: BTreeSet::new(),
        };
        self.by_id.insert(id, in_force);
    }

    /// Finds the label classes and the blocks of new sets.
    pub(super) fn evaluate(&mut self, state: &ClusterState) {
        for id in std::mem::take(&mut self.pending) {
            let Some(set) = self.by_id.get_mut(&id) else { continue };
            let peers = Arc::clone(&set.peers);
            set.label_classes = peers.label_classes(state);
            for label_class in &set.label_classes {
                insert(self.by_label_class.entry(*label_class).or_default(), id);
            }
            self.touched.extend(&set.label_classes);
            let filtered: Vec<(PeerSetId, &IpBlock)> =
                peers.filtered_blocks().map(|block| (id, block)).collect();
            if !filtered.is_empty() {
                self.filtered.insert(id, PrefixTable::new(&filtered));
            }
            self.add_changed_blocks(&peers);
        }
    }

    /// Removes a user of a set.
    pub(super) fn leave(&mut self, id: PeerSetId) {
        let Some(known) = self.by_id.get_mut(&id) else { return };
        known.n_users -= 1;
        if known.n_users > 0 {
            return;
        }
        let Some(InForce { peers, n_comparisons, label_classes, .. }) = self.by_id.remove(&id)
        else {
            return;
        };
        self.n_comparisons = self.n_comparisons.saturating_sub(n_comparisons);
        self.n_requirements = self.n_requirements.saturating_sub(peers.n_requirements());
        self.n_blocks -= peers.n_blocks();
        if self.pending.remove(&id) {
            return;
        }
        for label_class in &label_classes {
            self.take_from(*label_class, id);
        }
        self.touched.extend(label_classes);
        self.filtered.remove(&id);
        self.add_changed_blocks(&peers);
    }

    /// Upper bound of the comparisons of all sets.
    pub(super) fn n_comparisons(&self) -> usize {
        self.n_comparisons
    }

    /// Counts the comparisons again, because the upper bound rises with each change of a label class.
    pub(super) fn count_comparisons(&mut self, state: &ClusterState) {
        self.n_comparisons = 0;
        for set in self.by_id.values_mut() {
            set.n_comparisons = set.peers.n_comparisons(state);
            self.n_comparisons = self.n_comparisons.saturating_add(set.n_comparisons);
        }
    }

    /// Whether label classes or namespaces have changed since the last call.
    pub(super) fn take_reviewed(&mut self) -> bool {
        std::mem::take(&mut self.is_reviewed)
    }

    /// Upper bound of the blocks and exceptions in the common prefix table.
    pub(super) fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    fn add_changed_blocks(&mut self, peers: &PeerSet) {
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

    /// Evaluates the sets again for label classes of one namespace: new and removed ones, or all if its labels changed.
    pub(super) fn review(
        &mut self,
        state: &ClusterState,
        namespace: &str,
        label_classes: BTreeSet<LabelClassId>,
    ) {
        self.is_reviewed = true;
        let n_more = self.n_requirements.saturating_mul(1 + label_classes.len());
        self.n_comparisons = self.n_comparisons.saturating_add(n_more);
        let concerning = |id: &&PeerSetId| {
            let set = self.by_id.get(id).filter(|_| !self.pending.contains(id));
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

    /// The blocks whose addresses are in a set regardless of their owners.
    pub(super) fn common_blocks(&self) -> Vec<(PeerSetId, &IpBlock)> {
        let sets = self.by_id.iter();
        sets.flat_map(|(id, set)| set.peers.blocks().map(|block| (*id, block))).collect()
    }

    /// Whether any set can hold pods of this label class by their labels or port names.
    pub(super) fn may_hold(&self, label_class: LabelClassId) -> bool {
        self.by_label_class.contains_key(&label_class) || !self.filtered.is_empty()
    }

    /// Whether the sets that hold an address can depend on blocks outside the common prefix table.
    pub(super) fn asks_blocks(&self) -> bool {
        !self.filtered.is_empty()
    }

    /// The sets that hold an address whose pod has this label class, sorted; `None` if they are those of its longest prefix.
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

    /// Adds an identity to the sets of its signature.
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

    /// Number of [`Self::identities`].
    pub(super) fn n_identities(&self, id: PeerSetId) -> usize {
        self.by_id.get(&id).map_or(0, |set| set.identities.len())
    }

    /// The identities whose addresses are in a set.
    pub(super) fn identities(&self, id: PeerSetId) -> impl Iterator<Item = &Identity> {
        self.by_id.get(&id).into_iter().flat_map(|set| &set.identities)
    }
}

/// Adds a number to a sorted list.
fn insert<Id: Ord>(ids: &mut Vec<Id>, id: Id) {
    if let Err(index) = ids.binary_search(&id) {
        ids.insert(index, id);
    }
}

fn remove<Id: Ord + Copy>(ids: &mut Vec<Id>, id: Id) {
    if let Ok(index) = ids.binary_search(&id) {
        ids.remove(index);
    }
}
