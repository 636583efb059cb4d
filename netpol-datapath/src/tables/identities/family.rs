//! The table of one family, and the larger or smaller one that takes its place.
//!
//! In: entries that come and go. Out: a table that has them all, with room. To put another table in place makes the kernel wait
//! until no program reads the old one (RCU, some ten milliseconds): so there is room for more than there must be, a batch waits
//! once at the most, and what can be done when nothing waits is left for then. Must not: lose an entry.

use netpol_common::identities::{Entry, Key};

use super::table::{Crowded, Table, Words};

/// Where a family's table is, and what it is made of.
pub(super) trait Place {
    /// Memory for a table.
    type Memory: Words;
    /// Why there is none.
    type Error;

    /// Zeros for a table of so many buckets, and a seed for it.
    ///
    /// # Errors
    /// There is no memory.
    fn make(&mut self, n_buckets: u32) -> Result<(Self::Memory, u64), Self::Error>;

    /// Lets programs read this memory in place of any other. When this returns none reads the other any more.
    ///
    /// # Errors
    /// It could not be done: they go on reading the other.
    fn put(&mut self, memory: &Self::Memory) -> Result<(), Self::Error>;
}

/// The table of a family.
#[derive(Debug)]
pub(super) struct Family<K, M> {
    table: Table<K, M>,
    n_least_buckets: u32,
}

/// Slots of a table that may be taken.
const fn n_room<K: Key>(n_buckets: u32) -> usize {
    n_buckets as usize * K::N_TAKEN
}

impl<K: Key, M: Words> Family<K, M> {
    /// A family whose table is there.
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
    /// There is no memory for a larger table: some of the first entries are written.
    pub(super) fn set_all<P: Place<Memory = M>>(
        &mut self,
        place: &mut P,
        entries: &[(K, Entry)],
    ) -> Result<(), P::Error> {
        if self.table.n_taken() + entries.len() > self.n_room() {
            let is_new = |(key, _): &&(K, Entry)| !self.table.has_slot(*key);
            let n_new = entries.iter().filter(is_new).count();
            if self.table.n_taken() + n_new > self.n_room() {
                let n_buckets = self.n_buckets_for(self.table.n_present() + n_new);
                return self.replace(place, n_buckets, entries);
            }
        }
        for (n_done, (key, entry)) in entries.iter().enumerate() {
            if self.table.set(*key, *entry) == Err(Crowded) {
                let rest = entries.get(n_done..).unwrap_or_default();
                return self.replace(place, self.table.n_buckets(), rest);
            }
        }
        Ok(())
    }

    /// Removes an entry, if there is one.
    pub(super) fn remove(&mut self, key: K) {
        self.table.remove(key);
    }

    /// Whether [`Self::prepare`] has something to do.
    pub(super) fn wants_preparation(&self) -> bool {
        self.is_nearly_full() || self.is_far_too_large()
    }

    /// Makes a table that fits, with room ahead and without slots that are kept for addresses of before.
    ///
    /// # Errors
    /// There is no memory for it: nothing is changed.
    pub(super) fn prepare<P: Place<Memory = M>>(&mut self, place: &mut P) -> Result<(), P::Error> {
        self.replace(place, self.n_buckets_for(self.table.n_present()), &[])
    }

    fn is_nearly_full(&self) -> bool {
        self.table.n_taken() * 8 > self.n_room() * 7
    }

    /// A node does not pay for its past.
    fn is_far_too_large(&self) -> bool {
        let n_buckets = self.n_buckets_for(self.table.n_present());
        n_buckets <= self.table.n_buckets() / 4
    }

    fn n_room(&self) -> usize {
        n_room::<K>(self.table.n_buckets())
    }

    /// Buckets for so many entries, and a quarter more of them.
    fn n_buckets_for(&self, n_entries: usize) -> u32 {
        let n_wanted = n_entries + n_entries.div_ceil(4);
        let mut n_buckets = self.n_least_buckets;
        while n_room::<K>(n_buckets) < n_wanted {
            n_buckets = n_buckets.saturating_mul(2);
        }
        n_buckets
    }

    /// Puts a table with what this one holds and these entries in its place, with so many buckets or, if an address finds no
    /// place there with any of some seeds, more.
    fn replace<P: Place<Memory = M>>(
        &mut self,
        place: &mut P,
        n_buckets: u32,
        entries: &[(K, Entry)],
    ) -> Result<(), P::Error> {
        let mut n_tries = 0;
        let mut n_buckets = n_buckets;
        let table = loop {
            let (memory, seed) = place.make(n_buckets)?;
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
        place.put(table.memory())?;
        self.table = table;
        Ok(())
    }
}
