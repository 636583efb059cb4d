//! One table of identities in memory that programs may be reading; [`netpol_common::identities`] defines the layout.
//!
//! In: words. Out: the same words, changed by single stores, in an order in which a reader never gets a wrong identity. After a
//! crash between two stores the table is still readable and writable. Must not: move an entry.

use std::marker::PhantomData;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{self, Relaxed, Release};

use netpol_common::identities::{
    Entry, Header, Key, LINE_WORDS, Line, MAX_REACH, REACH_WORD, Slot, find,
};

/// The memory of a table.
pub(super) trait Words {
    /// All words.
    fn words(&self) -> &[AtomicU64];

    /// Writes a word. With [`Release`] a reader that observes it also observes all earlier stores.
    fn store(&self, index: usize, value: u64, order: Ordering) {
        if let Some(word) = self.words().get(index) {
            word.store(value, order);
        }
    }
}

/// One bucket: a cache line of the table.
struct Bucket<'a, M> {
    memory: &'a M,
    first_word: usize,
}

impl<M> Clone for Bucket<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Bucket<'_, M> {}

impl<M: Words> Line for Bucket<'_, M> {
    fn word(self, index: usize) -> u64 {
        let word = self.memory.words().get(self.first_word + index);
        word.map_or(0, |word| word.load(Relaxed))
    }
}

impl<M: Words> Bucket<'_, M> {
    fn store(self, index: usize, value: u64, order: Ordering) {
        self.memory.store(self.first_word + index, value, order);
    }
}

/// All buckets for an address are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crowded;

/// A table, with the number of its entries.
#[derive(Debug)]
pub(super) struct Table<K, M> {
    memory: M,
    header: Header,
    n_present: usize,
    n_taken: usize,
    key: PhantomData<K>,
}

/// The slot of an address.
struct Found<'a, M> {
    bucket: Bucket<'a, M>,
    slot: usize,
    distance: u32,
    entry: Entry,
}

/// Number of words of a table with this number of buckets, a power of two.
pub(super) const fn n_words(n_buckets: u32) -> usize {
    (n_buckets as usize + 1) * LINE_WORDS
}

/// The word of a line that holds the state of a slot.
const fn state_word<K: Key>(slot: usize) -> usize {
    (slot + 1) * K::SLOT_WORDS - 1
}

impl<K: Key, M: Words> Table<K, M> {
    /// Creates an empty table in zeroed memory that is not shared yet.
    pub(super) fn make(memory: M, n_buckets: u32, seed: u64) -> Self {
        let header = Header { mask: n_buckets.wrapping_sub(1), seed };
        for (index, value) in header.words().into_iter().enumerate() {
            memory.store(index, value, Relaxed);
        }
        Self { memory, header, n_present: 0, n_taken: 0, key: PhantomData }
    }

    /// Opens an existing table; `None` if the words are not a valid table.
    pub(super) fn open(memory: M) -> Option<Self> {
        let header = Header::read(Bucket { memory: &memory, first_word: 0 });
        let n_buckets = header.mask.checked_add(1)?;
        if !n_buckets.is_power_of_two() || memory.words().len() != n_words(n_buckets) {
            return None;
        }
        let mut table = Self { memory, header, n_present: 0, n_taken: 0, key: PhantomData };
        (table.n_present, table.n_taken) = (table.entries().count(), table.slots().count());
        Some(table)
    }

    /// The memory.
    pub(super) fn memory(&self) -> &M {
        &self.memory
    }

    /// Number of buckets.
    pub(super) fn n_buckets(&self) -> u32 {
        self.header.mask.saturating_add(1)
    }

    /// Number of addresses with an entry.
    pub(super) fn n_present(&self) -> usize {
        self.n_present
    }

    /// Number of taken slots: those with an entry, and those reserved for an address.
    pub(super) fn n_taken(&self) -> usize {
        self.n_taken
    }

    /// The entry of an address.
    pub(super) fn get(&self, key: K) -> Entry {
        find(|number| self.line(number), key)
    }

    /// Whether an address has a slot, also one that is only reserved for it.
    pub(super) fn has_slot(&self, key: K) -> bool {
        self.find_slot(key).is_some()
    }

    /// All addresses with an entry.
    pub(super) fn entries(&self) -> impl Iterator<Item = (K, Entry)> {
        self.slots().filter(|(_, entry)| entry.is_present())
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// [`Crowded`]: nothing is changed.
    pub(super) fn set(&mut self, key: K, entry: Entry) -> Result<(), Crowded> {
        if let Some(found) = self.find_slot(key) {
            found.bucket.store(state_word::<K>(found.slot), key.state(entry), Release);
            self.n_present += usize::from(!found.entry.is_present());
            return Ok(());
        }
        let Found { bucket, slot, distance, .. } = self.find_free(key).ok_or(Crowded)?;
        if let Some(home) = self.bucket(key, 0)
            && u64::from(distance) > home.word(REACH_WORD)
        {
            home.store(REACH_WORD, u64::from(distance), Relaxed);
        }
        for (index, word) in (slot * K::SLOT_WORDS..).zip(key.address_words()) {
            bucket.store(index, *word, Relaxed);
        }
        bucket.store(state_word::<K>(slot), key.state(entry), Release);
        self.n_present += 1;
        self.n_taken += 1;
        Ok(())
    }

    /// Removes an entry, if there is one.
    pub(super) fn remove(&mut self, key: K) {
        let Some(found) = self.find_slot(key).filter(|found| found.entry.is_present()) else {
            return;
        };
        let Found { bucket, slot, distance, .. } = found;
        bucket.store(state_word::<K>(slot), key.state(Entry::ABSENT), Release);
        let is_free = K::slot(bucket, slot) == Slot::Free;
        if is_free
            && let Some(home) = self.bucket(key, 0)
            && u64::from(distance) == home.word(REACH_WORD)
        {
            home.store(REACH_WORD, u64::from(self.farthest(key, distance)), Release);
        }
        self.n_present -= 1;
        self.n_taken -= usize::from(is_free);
    }

    /// The greatest distance, up to this one, at which an address with the same home bucket has a slot.
    fn farthest(&self, key: K, distance: u32) -> u32 {
        let line = |key: K| self.header.line(key.hash(self.header.seed), 0);
        let is_from_here = |bucket: Bucket<'_, M>| {
            (0..K::N_SLOTS).any(|slot| match K::slot(bucket, slot) {
                Slot::Free => false,
                Slot::Of(other, _) => line(other) == line(key),
            })
        };
        let mut distances = (1..=distance).rev();
        distances
            .find(|distance| self.bucket(key, *distance).is_some_and(is_from_here))
            .unwrap_or(0)
    }

    fn find_slot(&self, key: K) -> Option<Found<'_, M>> {
        let reach = self.bucket(key, 0)?.word(REACH_WORD);
        (0..=MAX_REACH).take_while(|distance| u64::from(*distance) <= reach).find_map(|distance| {
            let bucket = self.bucket(key, distance)?;
            (0..K::N_SLOTS).find_map(|slot| match K::slot(bucket, slot) {
                Slot::Of(other, entry) if other == key => {
                    Some(Found { bucket, slot, distance, entry })
                }
                Slot::Free | Slot::Of(..) => None,
            })
        })
    }

    fn find_free(&self, key: K) -> Option<Found<'_, M>> {
        // In a small table the probe sequence wraps around to the home bucket.
        (0..=MAX_REACH.min(self.header.mask)).find_map(|distance| {
            let bucket = self.bucket(key, distance)?;
            let slot = (0..K::N_SLOTS).find(|slot| K::slot(bucket, *slot) == Slot::Free)?;
            Some(Found { bucket, slot, distance, entry: Entry::ABSENT })
        })
    }

    /// All slots that are not free.
    fn slots(&self) -> impl Iterator<Item = (K, Entry)> {
        (1..=self.n_buckets()).filter_map(|number| self.line(number)).flat_map(|bucket| {
            (0..K::N_SLOTS).filter_map(move |slot| match K::slot(bucket, slot) {
                Slot::Free => None,
                Slot::Of(key, entry) => Some((key, entry)),
            })
        })
    }

    fn bucket(&self, key: K, distance: u32) -> Option<Bucket<'_, M>> {
        self.line(self.header.line(key.hash(self.header.seed), distance))
    }

    fn line(&self, number: u32) -> Option<Bucket<'_, M>> {
        let first_word = usize::try_from(number).ok()? * LINE_WORDS;
        let is_there = first_word < self.memory.words().len();
        is_there.then_some(Bucket { memory: &self.memory, first_word })
    }
}
