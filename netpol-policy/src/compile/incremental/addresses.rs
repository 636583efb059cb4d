//! What addresses and prefixes have, after what decides it has changed.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use hashbrown::HashMap;
use netpol_common::addr::Addr;
use netpol_common::ids::Identity;

use super::Compiled;
use super::turn::Turn;
use crate::compile::image::Image;
use crate::compile::numbering::Signature;
use crate::compile::prefixes::{self, PrefixTable};
use crate::store::{ClusterState, Cohort, CohortId};

/// An address with the cohort of the pod that holds it, if one does.
type Held = (Addr, Option<CohortId>);

/// An identity with its signature, if there is one, and how many addresses have come to have it.
type Given = (Option<(Identity, Signature)>, usize);

impl Compiled {
    /// Follows the blocks of peer sets that came or went. Returns where addresses can have other blocks than before.
    pub(super) fn follow_blocks(
        &mut self,
        known: &Image,
        turn: &mut Turn,
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
            turn.before.prefixes = all_before.into_iter().collect();
            turn.after.prefixes = all_after.into_iter().collect();
        }
        prefixes::ranges(blocks.into_iter())
    }

    /// The addresses that can have another identity than before: these, those of pods whose cohorts have come to be in other
    /// peer sets, and those that can have other blocks.
    pub(super) fn concerned(
        &mut self,
        state: &ClusterState,
        addresses: &BTreeSet<Addr>,
        ranges: &[RangeInclusive<Addr>],
        known: &Image,
    ) -> Vec<Held> {
        let touched = self.peer_sets.take_touched();
        let pods = touched.iter().filter_map(|cohort| state.cohort(*cohort)).map(Cohort::n_pods);
        // A list that grows is copied, and most pods have one address of each family.
        let mut concerned: Vec<Held> =
            Vec::with_capacity(addresses.len() + 2 * pods.sum::<usize>());
        concerned.extend(addresses.iter().map(|addr| (*addr, state.cohort_at(*addr))));
        for cohort in touched {
            state.addresses_of_cohort(cohort).for_each(|addr| concerned.push((addr, Some(cohort))));
        }
        if !ranges.is_empty() {
            let within = state.cohorts_within(ranges);
            // One that has an identity of its own may owe it to a set that is not in force any more.
            let within = within.filter(|(addr, cohort)| {
                self.peer_sets.may_hold(*cohort) || known.identities.contains_key(addr)
            });
            concerned.extend(within.map(|(addr, cohort)| (addr, Some(cohort))));
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
        known: &Image,
        turn: &mut Turn,
    ) {
        let mut all_before = Vec::new();
        let mut of_cohorts: HashMap<CohortId, Given> = HashMap::new();
        let mut latest_place = 0;
        let mut follow = |addr: Addr, cohort: Option<CohortId>| {
            let mut own = (None, 0);
            let (found, n_addresses) = match cohort {
                None => &mut own,
                // The addresses of a cohort differ only by the blocks that they are in.
                Some(of)
                    if !self.peer_sets.asks_blocks()
                        && self.prefixes.lookup_after(addr, &mut latest_place).is_empty() =>
                {
                    let known = of_cohorts.entry(of);
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
        let all_after = addresses.into_iter().filter_map(|(addr, cohort)| follow(addr, cohort));
        // In the same memory: to touch new one costs as much as the rest.
        let all_after: Vec<(Addr, Identity)> = all_after.collect();
        of_cohorts.values().for_each(|given| self.give(given));
        turn.before.identities = all_before.into_iter().collect();
        turn.after.identities = all_after.into_iter().collect();
    }

    fn give(&mut self, (found, n_addresses): &Given) {
        if let Some((identity, signature)) = found {
            self.identities.add(*identity, signature, *n_addresses);
        }
    }

    /// What an address with its pod of this cohort has, unless the prefixes say it already.
    fn identity(
        &mut self,
        state: &ClusterState,
        addr: Addr,
        cohort: CohortId,
    ) -> Option<(Identity, Signature)> {
        let signature = self.peer_sets.signature(state, addr, cohort, &self.prefixes)?;
        Some((self.numbering.identity(&signature), signature))
    }
}
