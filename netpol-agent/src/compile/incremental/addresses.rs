//! What addresses and prefixes have, after what decides it has changed.

use std::ops::RangeInclusive;

use hashbrown::HashMap;
use netpol_common::addr::Addr;
use netpol_common::ids::Identity;

use super::Compiled;
use super::turn::Turn;
use crate::compile::image::Image;
use crate::compile::numbering::Signature;
use crate::compile::prefixes::{self, PrefixTable};
use crate::store::{ClusterState, CohortId};

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
            for (key, signature) in self.prefixes.iter() {
                if old.get(key) != Some(signature) {
                    let identity = self.numbering.identity(signature);
                    self.identities.add(identity, signature);
                    turn.set_prefix(known, *key, Some(identity));
                }
            }
            for (key, signature) in old.iter() {
                let after = self.prefixes.get(key);
                if after != Some(signature) {
                    if let Some(identity) = known.prefixes.get(key) {
                        self.identities.remove(*identity);
                    }
                    if after.is_none() {
                        turn.set_prefix(known, *key, None);
                    }
                }
            }
        }
        prefixes::ranges(blocks.iter().map(|block| block.cidr))
    }

    /// Gives addresses that can have another identity than before the one that they should have.
    pub(super) fn follow_addresses(
        &mut self,
        state: &ClusterState,
        mut addresses: Vec<Addr>,
        known: &Image,
        turn: &mut Turn,
    ) {
        addresses.sort_unstable();
        addresses.dedup();
        let (mut all_before, mut all_after) = (Vec::new(), Vec::new());
        let mut of_cohorts = HashMap::new();
        for addr in addresses {
            let own;
            let found = match state.cohort_at(addr) {
                None => None,
                // The addresses of a cohort differ only by the blocks that they are in.
                Some(of)
                    if !self.peer_sets.asks_blocks() && self.prefixes.lookup(addr).is_empty() =>
                {
                    let known = of_cohorts.entry(of);
                    known.or_insert_with(|| self.identity(state, addr, of)).as_ref()
                }
                Some(of) => {
                    own = self.identity(state, addr, of);
                    own.as_ref()
                }
            };
            let before = known.identities.get(&addr).copied();
            let after = found.map(|(identity, _)| *identity);
            if before == after {
                continue;
            }
            if let Some((identity, signature)) = found {
                self.identities.add(*identity, signature);
                all_after.push((addr, *identity));
            }
            if let Some(identity) = before {
                self.identities.remove(identity);
                all_before.push((addr, identity));
            }
        }
        turn.before.identities = all_before.into_iter().collect();
        turn.after.identities = all_after.into_iter().collect();
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
