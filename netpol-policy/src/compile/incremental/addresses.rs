//! The identities of addresses and prefixes after a change of peer sets, pods or blocks.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use hashbrown::HashMap;
use netpol_common::addr::Addr;
use netpol_common::ids::Identity;

use super::Compiled;
use super::update::MapStateUpdate;
use crate::compile::map_state::MapState;
use crate::compile::numbering::Signature;
use crate::compile::prefixes::{self, PrefixTable};
use crate::store::{ClusterState, LabelClass, LabelClassId};

/// An address with the label class of the pod that owns it, if one does.
type Held = (Addr, Option<LabelClassId>);

/// An identity with its signature, if there is one, and the number of addresses that get it.
type Given = (Option<(Identity, Signature)>, usize);

impl Compiled {
    /// Updates prefixes for the blocks of new and removed peer sets. Returns the ranges of addresses whose blocks can have
    /// changed.
    pub(super) fn follow_blocks(
        &mut self,
        known: &MapState,
        update: &mut MapStateUpdate,
    ) -> Vec<RangeInclusive<Addr>> {
        let (blocks, is_common) = self.peer_sets.take_blocks();
        if is_common {
            let table = PrefixTable::new(&self.peer_sets.common_blocks());
            let old = std::mem::replace(&mut self.prefixes, table);
            let signatures = self.prefixes.signatures().iter();
            let mut given: Vec<(Identity, usize)> =
                signatures.map(|signature| (self.numbering.identity(signature), 0)).collect();
            let (mut all_before, mut all_after) = (Vec::new(), Vec::new());
            for (key, after) in PrefixTable::differences(&old, &self.prefixes) {
                if let Some(identity) = known.prefixes.get(&key) {
                    self.identities.remove(*identity);
                    all_before.push((key, *identity));
                }
                if let Some((identity, n_prefixes)) = after.and_then(|id| given.get_mut(id.index()))
                {
                    *n_prefixes += 1;
                    all_after.push((key, *identity));
                }
            }
            for ((identity, n_prefixes), signature) in given.iter().zip(self.prefixes.signatures())
            {
                self.identities.add(*identity, signature, *n_prefixes);
            }
            update.before.prefixes = all_before.into_iter().collect();
            update.after.prefixes = all_after.into_iter().collect();
        }
        prefixes::ranges(blocks.into_iter())
    }

    /// The addresses whose identity can have changed: those of `addresses`, those of pods whose label classes are in other peer
    /// sets than before, and those in `ranges`.
    pub(super) fn concerned(
        &mut self,
        state: &ClusterState,
        addresses: &BTreeSet<Addr>,
        ranges: &[RangeInclusive<Addr>],
        known: &MapState,
    ) -> Vec<Held> {
        let touched = self.peer_sets.take_touched();
        let pods = touched
            .iter()
            .filter_map(|label_class| state.label_class(*label_class))
            .map(LabelClass::n_pods);
        // Sized ahead, because a growing list is copied. Most pods have one address of each family.
        let mut concerned: Vec<Held> =
            Vec::with_capacity(addresses.len() + 2 * pods.sum::<usize>());
        concerned.extend(addresses.iter().map(|addr| (*addr, state.label_class_at(*addr))));
        for label_class in touched {
            state
                .addresses_of_label_class(label_class)
                .for_each(|addr| concerned.push((addr, Some(label_class))));
        }
        if !ranges.is_empty() {
            let within = state.label_classes_within(ranges);
            // An address can still have the identity of a set that is not in force any more.
            let within = within.filter(|(addr, label_class)| {
                self.peer_sets.may_hold(*label_class) || known.identities.contains_key(addr)
            });
            concerned.extend(within.map(|(addr, label_class)| (addr, Some(label_class))));
        }
        concerned.sort_unstable_by_key(|(addr, _)| *addr);
        concerned.dedup_by_key(|(addr, _)| *addr);
        concerned
    }

    /// Assigns the current identities to `addresses`, which are sorted.
    pub(super) fn follow_addresses(
        &mut self,
        state: &ClusterState,
        addresses: Vec<Held>,
        known: &MapState,
        update: &mut MapStateUpdate,
    ) {
        let mut all_before = Vec::new();
        let mut of_label_classes: HashMap<LabelClassId, Given> = HashMap::new();
        let mut latest_index = 0;
        let mut follow = |addr: Addr, label_class: Option<LabelClassId>| {
            let mut own = (None, 0);
            let (found, n_addresses) = match label_class {
                None => &mut own,
                // The addresses of a label class differ only by the blocks that they are in.
                Some(of)
                    if !self.peer_sets.asks_blocks()
                        && self.prefixes.lookup_after(addr, &mut latest_index).is_empty() =>
                {
                    let known = of_label_classes.entry(of);
                    known.or_insert_with(|| (self.identity(state, addr, of), 0))
                }
                Some(of) => {
                    own.0 = self.identity(state, addr, of);
                    &mut own
                }
            };
            let before = known.identities.get(&addr).copied();
            let after = found.as_ref().map(|(identity, _)| *identity);
            if before == after {
                return None;
            }
            *n_addresses += usize::from(after.is_some());
            if let Some(identity) = before {
                self.identities.remove(identity);
                all_before.push((addr, identity));
            }
            self.give(&own);
            Some((addr, after?))
        };
        let all_after =
            addresses.into_iter().filter_map(|(addr, label_class)| follow(addr, label_class));
        // Collected in place: touching new memory would cost as much as the rest.
        let all_after: Vec<(Addr, Identity)> = all_after.collect();
        of_label_classes.values().for_each(|given| self.give(given));
        update.before.identities = all_before.into_iter().collect();
        update.after.identities = all_after.into_iter().collect();
    }

    fn give(&mut self, (found, n_addresses): &Given) {
        if let Some((identity, signature)) = found {
            self.identities.add(*identity, signature, *n_addresses);
        }
    }

    /// The identity of an address whose pod has this label class, unless its longest prefix has the same signature.
    fn identity(
        &mut self,
        state: &ClusterState,
        addr: Addr,
        label_class: LabelClassId,
    ) -> Option<(Identity, Signature)> {
        let signature = self.peer_sets.signature(state, addr, label_class, &self.prefixes)?;
        Some((self.numbering.identity(&signature), signature))
    }
}
