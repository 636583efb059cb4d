//! The pods that report each address.

use std::hash::BuildHasher as _;
use std::net::IpAddr;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use netpol_common::addr::Addr;

use super::pods::PodId;

/// Pods by address. Hashed, because a sorted map needs ten times the memory.
#[derive(Clone, Debug, Default)]
pub(super) struct AddressOwners {
    hasher: DefaultHashBuilder,
    table: HashTable<Holding>,
    /// Number of reports of addresses that another pod reports too.
    n_contesting: usize,
}

/// An address that a pod reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) addr: Addr,
    pub(super) pod: PodId,
}

impl AddressOwners {
    /// Number of reported addresses; one that several pods report counts once for each.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Reserves capacity for this many more.
    pub(super) fn reserve(&mut self, n_more: usize) {
        let Self { hasher, table, .. } = self;
        table.reserve(n_more, |held| hash(hasher, held.addr));
    }

    /// Adds a pod that reports these addresses.
    pub(super) fn hold(&mut self, pod: PodId, addresses: &[IpAddr]) {
        let Self { hasher, table, n_contesting } = self;
        let rehash = |held: &Holding| hash(hasher, held.addr);
        for address in addresses {
            let held = Holding { addr: Addr::from(*address), pod };
            let hash = rehash(&held);
            if let Entry::Vacant(entry) = table.entry(hash, |known| known.addr == held.addr, rehash)
            {
                entry.insert(held);
            } else if table.find(hash, |known| *known == held).is_none() {
                *n_contesting += 1;
                table.insert_unique(hash, held, rehash);
            }
        }
    }

    /// Undoes [`Self::hold`].
    pub(super) fn let_go(&mut self, pod: PodId, addresses: &[IpAddr]) {
        for address in addresses {
            let held = Holding { addr: Addr::from(*address), pod };
            let hash = hash(&self.hasher, held.addr);
            if let Ok(entry) = self.table.find_entry(hash, |known| *known == held) {
                entry.remove();
                let is_held = self.table.find(hash, |known| known.addr == held.addr).is_some();
                self.n_contesting -= usize::from(is_held);
            }
        }
    }

    /// Whether any address has several owners.
    pub(super) fn are_contested(&self) -> bool {
        self.n_contesting > 0
    }

    /// All pods that report an address.
    pub(super) fn of(&self, addr: Addr) -> impl Iterator<Item = PodId> {
        let found = self.table.iter_hash(hash(&self.hasher, addr));
        found.filter(move |held| held.addr == addr).map(|held| held.pod)
    }

    /// All addresses with their pods, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Holding> {
        self.table.iter()
    }
}

/// The hash of an address as a number, which costs half of the hash of its bytes.
fn hash(hasher: &DefaultHashBuilder, addr: Addr) -> u64 {
    hasher.hash_one(u128::from_ne_bytes(addr.0))
}
