//! Tables in plain memory, compared with a tree of the expected entries.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::atomic::Ordering::{self, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use netpol_common::addr::Addr;
use netpol_common::identities::{Entry, Key, LINE_WORDS, Line, V4, V6, find};
use netpol_common::ids::Identity;
use proptest::prelude::*;
use proptest::sample::select;

use super::family::{Backing, Family};
use super::table::{Table, Words, n_words};

/// Words with a log of all stores in their order.
#[derive(Debug, Default)]
struct Plain {
    words: Vec<AtomicU64>,
    log: RefCell<Vec<(usize, u64)>>,
}

impl Plain {
    fn zeros(n_buckets: u32) -> Self {
        Self::holding(vec![0; n_words(n_buckets)])
    }

    fn holding(words: Vec<u64>) -> Self {
        Self { words: words.into_iter().map(AtomicU64::new).collect(), log: RefCell::default() }
    }

    fn content(&self) -> Vec<u64> {
        self.words.iter().map(|word| word.load(Relaxed)).collect()
    }
}

impl Words for Plain {
    fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    fn store(&self, index: usize, value: u64, order: Ordering) {
        self.words[index].store(value, order);
        self.log.borrow_mut().push((index, value));
    }
}

/// The memory that programs read, and the number of replacements.
#[derive(Default)]
struct InForce {
    words: Vec<u64>,
    n_puts: u32,
    next_seed: u64,
}

impl Backing for InForce {
    type Memory = Plain;
    type Error = Infallible;

    fn make(&mut self, n_buckets: u32) -> Result<(Plain, u64), Infallible> {
        self.next_seed += 1;
        Ok((Plain::zeros(n_buckets), self.next_seed))
    }

    fn put(&mut self, memory: &Plain) -> Result<(), Infallible> {
        self.words = memory.content();
        self.n_puts += 1;
        Ok(())
    }
}

/// A line as a program reads it.
#[derive(Clone, Copy)]
struct Read<'a>(&'a [u64]);

impl Line for Read<'_> {
    fn word(self, index: usize) -> u64 {
        self.0[index]
    }
}

fn read<K: Key>(words: &[u64], key: K) -> Entry {
    let line = |number| {
        let start = usize::try_from(number).unwrap() * LINE_WORDS;
        words.get(start..start + LINE_WORDS).map(Read)
    };
    find(line, key)
}

/// Addresses of a family that tests choose from.
trait Pool: Key + Debug {
    fn numbered(number: u16) -> Self;
}

impl Pool for V4 {
    fn numbered(number: u16) -> Self {
        Self(u32::from(number))
    }
}

/// Many of them share a word; others share none.
impl Pool for V6 {
    fn numbered(number: u16) -> Self {
        Self([u64::from(number & 3), u64::from(number >> 2)])
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(Vec<(u16, u32)>),
    Remove(Vec<u16>),
    Prepare,
    /// The agent restarts.
    Restart,
}

/// Steps on few addresses, which are added and removed often, or on many.
fn steps(n_addresses: u16, n_in_batch: usize) -> impl Strategy<Value = Vec<Step>> {
    let address = move || 0..n_addresses;
    let identity = select(vec![0, 1, 2, 3]);
    let step = prop_oneof![
        4 => proptest::collection::vec((address(), identity), 1..n_in_batch).prop_map(Step::Set),
        4 => proptest::collection::vec(address(), 1..n_in_batch).prop_map(Step::Remove),
        1 => Just(Step::Prepare),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..60)
}

fn check_family<K: Pool>(steps: &[Step], n_addresses: u16, n_least_buckets: u32) {
    let mut backing = InForce::default();
    let table = Table::make(Plain::zeros(n_least_buckets), n_least_buckets, 0);
    let mut family: Family<K, Plain> = Family::new(table, n_least_buckets);
    let mut expected: BTreeMap<u16, Entry> = BTreeMap::new();
    for step in steps {
        let n_puts = backing.n_puts;
        match step {
            Step::Set(entries) => {
                let entry =
                    |(number, identity): &(u16, u32)| (*number, Entry::of(Identity(*identity)));
                expected.extend(entries.iter().map(entry));
                let entries: Vec<_> = entries
                    .iter()
                    .map(entry)
                    .map(|(number, entry)| (K::numbered(number), entry))
                    .collect();
                let Ok(()) = family.set_all(&mut backing, &entries);
                assert!(backing.n_puts <= n_puts + 1, "a batch is waited for once at the most");
            }
            Step::Remove(numbers) => {
                for number in numbers {
                    expected.remove(number);
                    family.remove(K::numbered(*number));
                }
                assert_eq!(backing.n_puts, n_puts, "a removal does not wait");
            }
            Step::Prepare => {
                let Ok(()) = family.prepare(&mut backing);
                assert!(!family.wants_preparation());
            }
            Step::Restart => {
                let words = family.table().memory().content();
                let table = Table::open(Plain::holding(words)).unwrap();
                assert_eq!(table.n_present(), family.table().n_present());
                assert_eq!(table.n_taken(), family.table().n_taken());
                family = Family::new(table, n_least_buckets);
            }
        }
        let words = family.table().memory().content();
        for number in 0..n_addresses {
            let entry = expected.get(&number).copied().unwrap_or(Entry::ABSENT);
            assert_eq!(read(&words, K::numbered(number)), entry, "{:?}", K::numbered(number));
        }
        let mut found: Vec<_> =
            family.table().entries().map(|(key, entry)| (key.addr(), entry)).collect();
        let mut entries: Vec<_> =
            expected.iter().map(|(number, entry)| (K::numbered(*number).addr(), *entry)).collect();
        found.sort_by_key(|(addr, _)| *addr);
        entries.sort_by_key(|(addr, _)| *addr);
        assert_eq!(found, entries);
        assert_eq!(family.table().n_present(), entries.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_family_has_the_written_entries_through_all_replacements_of_its_table(few in steps(24, 8), many in steps(600, 300)) {
        check_family::<V4>(&few, 24, 1);
        check_family::<V6>(&few, 24, 1);
        check_family::<V4>(&many, 600, 4);
        check_family::<V6>(&many, 600, 4);
    }
}

/// Adds and removes entries until a table is crowded and some entries are far from their home bucket. After each prefix of the
/// stores the table is opened as an agent would after a crash; and it is read with any subset of the stores, as a processor
/// with weak ordering may observe them.
fn check_stores<K: Pool>(n_addresses: u16, n_buckets: u32) {
    let mut words = Table::<K, _>::make(Plain::zeros(n_buckets), n_buckets, 1).memory().content();
    let (mut n_crowded, mut n_far) = (0, 0);
    for number in (0..3).flat_map(|_| 0..n_addresses) {
        let before = words;
        let mut now = open::<K>(&before);
        let key = K::numbered(number);
        let was = now.get(key);
        let will_be = if was.is_present() { Entry::ABSENT } else { Entry(9) };
        if !will_be.is_present() {
            now.remove(key);
        } else if now.set(key, will_be).is_err() {
            n_crowded += 1;
        }
        words = now.memory().content();
        let log = now.memory().log.borrow().clone();
        n_far += usize::from(log.len() > 1 + key.address_words().len());
        for stored in 0..1_u32 << log.len() {
            let mut observed = before.clone();
            for (bit, (index, value)) in log.iter().enumerate() {
                if stored >> bit & 1 == 1 {
                    observed[*index] = *value;
                }
            }
            for asked in (0..n_addresses).map(K::numbered) {
                let (said, said_before) = (read(&observed, asked), read(&before, asked));
                let is_right = said == said_before || asked == key && said == will_be;
                assert!(is_right, "{asked:?}: {said:?} while {key:?} becomes {will_be:?}");
            }
            // A prefix of the stores: the next agent continues from it.
            if (stored + 1).is_power_of_two() {
                let found = entries::<K>(&observed);
                assert!(found == entries::<K>(&before) || found == entries::<K>(&words));
                go_on(&observed, [key, K::numbered(number / 2)]);
            }
        }
    }
    assert!(n_crowded > 0 && n_far > 0, "{n_crowded} {n_far}");
}

fn open<K: Key>(words: &[u64]) -> Table<K, Plain> {
    Table::open(Plain::holding(words.to_vec())).unwrap()
}

fn entries<K: Key>(words: &[u64]) -> Vec<(Addr, u32)> {
    let entry = |(key, Entry(entry)): (K, Entry)| (key.addr(), entry);
    let mut entries: Vec<_> = open::<K>(words).entries().map(entry).collect();
    entries.sort_unstable();
    entries
}

fn go_on<K: Pool>(words: &[u64], keys: [K; 2]) {
    let mut table = open::<K>(words);
    for key in keys {
        if table.set(key, Entry(8)).is_ok() {
            assert_eq!(read(&table.memory().content(), key), Entry(8));
        }
        table.remove(key);
        assert_eq!(read(&table.memory().content(), key), Entry::ABSENT);
    }
    assert_eq!(table.n_present(), table.entries().count());
}

#[test]
fn a_read_between_two_stores_returns_the_old_or_the_new_entry() {
    check_stores::<V4>(80, 8);
    check_stores::<V6>(40, 8);
}

/// Words shared by a writer and a reader.
#[derive(Clone)]
struct Common(Arc<Vec<AtomicU64>>);

impl Words for Common {
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

/// Adds and removes entries, each with its own identity, in tables with this number of buckets, while another thread reads them.
fn check_threads<K: Pool>(n_buckets: u32) {
    const N_ADDRESSES: u16 = 20;
    let entry = |number: u16| Entry(u32::from(number) + 2);
    let table = |seed| {
        let words = (0..n_words(n_buckets)).map(|_| AtomicU64::new(0)).collect();
        Table::<K, _>::make(Common(Arc::new(words)), n_buckets, seed)
    };
    let current = Mutex::new(table(0).memory().clone());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for seed in 0..500 {
                let mut table = table(seed);
                *current.lock().unwrap() = table.memory().clone();
                for number in (0..20).flat_map(|_| 0..N_ADDRESSES) {
                    // The buckets are full: the next iteration tries again.
                    table.set(K::numbered(number), entry(number)).ok();
                    table.remove(K::numbered((number + 13) % N_ADDRESSES));
                }
            }
            is_over.store(true, Relaxed);
        });
        while !is_over.load(Relaxed) {
            let words = Table::<K, _>::open(current.lock().unwrap().clone()).unwrap();
            for number in (0..100).flat_map(|_| 0..N_ADDRESSES) {
                let said = words.get(K::numbered(number));
                assert!(!said.is_present() || said == entry(number), "{said:?} of {number}");
            }
        }
    });
}

#[test]
fn a_concurrent_reader_never_gets_the_identity_of_another_address() {
    check_threads::<V4>(1);
    check_threads::<V6>(8);
}

#[test]
fn memory_that_is_no_table_is_refused() {
    let open = |words: Vec<u64>| Table::<V4, Plain>::open(Plain::holding(words)).is_some();
    let table = Table::<V4, Plain>::make(Plain::zeros(4), 4, 9).memory().content();
    assert!(open(table.clone()));
    assert!(!open(table[..32].to_vec()));
    assert!(!open(Vec::new()));
    let mut other = table;
    other[0] = 4;
    assert!(!open(other));
    assert!(!open(vec![u64::MAX; 40]));
}

#[test]
fn a_table_has_spare_capacity_and_shrinks_again() {
    let mut backing = InForce::default();
    let mut family: Family<V6, Plain> = Family::new(Table::make(Plain::zeros(4), 4, 0), 4);
    let all: Vec<_> = (0..1000).map(|number| (V6::numbered(number), Entry(5))).collect();
    let Ok(()) = family.set_all(&mut backing, &all);
    assert_eq!(family.table().n_buckets(), 2048);
    assert!(!family.wants_preparation());
    for (key, _) in &all[5..] {
        family.remove(*key);
    }
    assert_eq!(family.table().n_taken(), 1000, "slots are kept for their addresses");
    assert!(family.wants_preparation());
    let Ok(()) = family.prepare(&mut backing);
    assert_eq!((family.table().n_buckets(), family.table().n_taken()), (8, 5));
    assert!(!family.wants_preparation());
}
