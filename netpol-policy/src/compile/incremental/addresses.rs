//! What addresses and prefixes have, after what decides it has changed.

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

/// An address with the label class of the pod that holds it, if one does.
type Held = (Addr, Option<LabelClassId>);

/// An identity with its signature, if there is one, and how many addresses have come to have it.
type Given = (Option<(Identity, Signature)>, usize);

impl Compiled {
    /// Follows the blocks of peer sets that came or went. Returns where addresses can have other blocks than before.
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

    /// The addresses that can have another identity than before: these, those of pods whose label classes have come to be in other
    /// peer sets, and those that can have other blocks.
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
        // A list that grows is copied, and most pods have one address of each family.
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
            // One that has an identity of its own may owe it to a set that is not in force any more.
            let within = within.filter(|(addr, label_class)| {
                self.peer_sets.may_hold(*label_class) || known.identities.contains_key(addr)
            });
            concerned.extend(within.map(|(addr, label_class)| (addr, Some(label_class))));
        }
        concerned.sort_unstable_by_key(|(addr, _)| *addr);
        concerned.dedup_by_key(|(addr, _)| *addr);
        concerned
    }

    /// Gives addresses that can have another identity than before the one that they should have. They are sorted.
    pub(super) fn follow_addresses(
        &mut self,
        state: &ClusterState,
        addresses: Vec<Held>,
        known: &MapState,
        update: &mut MapStateUpdate,
    ) {
        let mut all_before = Vec::new();
        let mut of_label_classes: HashMap<LabelClassId, Given> = HashMap::new();
        let mut latest_place = 0;
        let mut follow = |addr: Addr, label_class: Option<LabelClassId>| {
            let mut own = (None, 0);
            let (found, n_addresses) = match label_class {
                None => &mut own,
                // The addresses of a label class differ only by the blocks that they are in.
                Some(of)
                    if !self.peer_sets.asks_blocks()
                        && self.prefixes.lookup_after(addr, &mut latest_place).is_empty() =>
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
        // In the same memory: to touch new one costs as much as the rest.
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

    /// What an address with its pod of this label class has, unless the prefixes say it already.
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
