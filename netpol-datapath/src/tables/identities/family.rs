//! The table of one family, and its replacement by a larger or smaller one.
//!
//! In: entries that are added and removed. Out: a table with all of them and free slots. After a replacement the kernel waits
//! until no program reads the old table (RCU, some ten milliseconds). So tables have spare capacity, a batch waits at most
//! once, and a replacement that can wait is done when the node is idle. Must not: lose an entry.

use netpol_common::identities::{Entry, Key};

use super::table::{Crowded, Table, Words};

/// Allocates memory for the tables of a family, and puts one of them in force.
pub(super) trait Backing {
    /// Memory for a table.
    type Memory: Words;
    /// Why an operation failed.
    type Error;

    /// Zeroed memory for a table with this number of buckets, and a hash seed.
    ///
    /// # Errors
    /// No memory is available.
    fn make(&mut self, n_buckets: u32) -> Result<(Self::Memory, u64), Self::Error>;

    /// Makes programs read this memory. When this returns, no program reads the earlier one any more.
    ///
    /// # Errors
    /// The write failed: programs still read the earlier memory.
    fn put(&mut self, memory: &Self::Memory) -> Result<(), Self::Error>;
}

/// The table of a family.
#[derive(Debug)]
pub(super) struct Family<K, M> {
    table: Table<K, M>,
    n_least_buckets: u32,
}

/// Number of slots of a table that may be taken.
const fn capacity<K: Key>(n_buckets: u32) -> usize {
    n_buckets as usize * K::N_TAKEN
}

impl<K: Key, M: Words> Family<K, M> {
    /// A family with an existing table.
    pub(super) fn new(table: Table<K, M>, n_least_buckets: u32) -> Self {
        Self { table, n_least_buckets }
    }

    /// Its table.
    pub(super) fn table(&self) -> &Table<K, M> {
        &self.table
    }

    /// Inserts or replaces entries, in this order.
    ///
    /// # Errors
    /// No memory for a larger table: some of the first entries are written.
    pub(super) fn set_all<P: Backing<Memory = M>>(
        &mut self,
        backing: &mut P,
        entries: &[(K, Entry)],
    ) -> Result<(), P::Error> {
        if self.table.n_taken() + entries.len() > self.capacity() {
            let is_new = |(key, _): &&(K, Entry)| !self.table.has_slot(*key);
            let n_new = entries.iter().filter(is_new).count();
            if self.table.n_taken() + n_new > self.capacity() {
                let n_buckets = self.n_buckets_for(self.table.n_present() + n_new);
                return self.replace(backing, n_buckets, entries);
            }
        }
        for (n_done, (key, entry)) in entries.iter().enumerate() {
            if self.table.set(*key, *entry) == Err(Crowded) {
                let rest = entries.get(n_done..).unwrap_or_default();
                return self.replace(backing, self.table.n_buckets(), rest);
            }
        }
        Ok(())
    }

    /// Removes an entry, if there is one.
    pub(super) fn remove(&mut self, key: K) {
        self.table.remove(key);
    }

    /// Whether [`Self::prepare`] has work to do.
    pub(super) fn wants_preparation(&self) -> bool {
        self.is_nearly_full() || self.is_far_too_large()
    }

    /// Replaces the table by one of the right size, with spare capacity and without slots that are reserved for removed
    /// addresses.
    ///
    /// # Errors
    /// No memory for it: nothing is changed.
    pub(super) fn prepare<P: Backing<Memory = M>>(
        &mut self,
        backing: &mut P,
    ) -> Result<(), P::Error> {
        self.replace(backing, self.n_buckets_for(self.table.n_present()), &[])
    }

    fn is_nearly_full(&self) -> bool {
        self.table.n_taken() * 8 > self.capacity() * 7
    }

    /// A node that once had many addresses need not keep the memory.
    fn is_far_too_large(&self) -> bool {
        let n_buckets = self.n_buckets_for(self.table.n_present());
        n_buckets <= self.table.n_buckets() / 4
    }

    fn capacity(&self) -> usize {
        capacity::<K>(self.table.n_buckets())
    }

    /// Number of buckets for this number of entries plus a quarter.
    fn n_buckets_for(&self, n_entries: usize) -> u32 {
        let n_wanted = n_entries + n_entries.div_ceil(4);
        let mut n_buckets = self.n_least_buckets;
        while capacity::<K>(n_buckets) < n_wanted {
            n_buckets = n_buckets.saturating_mul(2);
        }
        n_buckets
    }

    /// Replaces the table by one with the present entries, these entries, and `n_buckets` buckets. If an address finds no slot
    /// with any of four seeds, the number of buckets is doubled.
    fn replace<P: Backing<Memory = M>>(
        &mut self,
        backing: &mut P,
        n_buckets: u32,
        entries: &[(K, Entry)],
    ) -> Result<(), P::Error> {
        let mut n_tries = 0;
        let mut n_buckets = n_buckets;
        let table = loop {
            let (memory, seed) = backing.make(n_buckets)?;
            let mut table = Table::make(memory, n_buckets, seed);
            let mut all = self.table.entries().chain(entries.iter().copied());
            if all.try_for_each(|(key, entry)| table.set(key, entry)).is_ok() {
                break table;
            }
            n_tries += 1;
            if n_tries % 4 == 0 {
                n_buckets = n_buckets.saturating_mul(2);
            }
        };
        backing.put(table.memory())?;
        self.table = table;
        Ok(())
    }
}
