//! IDENTITIES: the answers that a reader gets while entries come and go, on a processor that keeps no order at all.

use std::sync::atomic::AtomicBool;

use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;
use netpol_common::addr::Addr;
use netpol_common::identities::{Entry, Header, Key, LINE_WORDS, Line, Slot, V4, V6, find};
use netpol_common::ids::Identity;

/// The only bucket of a table.
type Bucket = [AtomicU64; LINE_WORDS];

/// A line of the table: the header is written before anybody reads it.
#[derive(Clone, Copy)]
enum TableLine<'a> {
    Header,
    Bucket(&'a Bucket),
}

impl Line for TableLine<'_> {
    fn word(self, index: usize) -> u64 {
        match self {
            Self::Header => Header { mask: 0, seed: 5 }.words().get(index).copied().unwrap_or(0),
            Self::Bucket(bucket) => bucket[index].load(Relaxed),
        }
    }
}

fn look_up<K: Key>(bucket: &Bucket, key: K) -> Option<Identity> {
    let line =
        |number| Some(if number == 0 { TableLine::Header } else { TableLine::Bucket(bucket) });
    find(line, key).identity()
}

/// Writes as the agent does, but in no order: each store is relaxed.
fn write<K: Key>(bucket: &Bucket, slot: usize, key: K, entry: Entry) {
    let start = slot * K::SLOT_WORDS;
    for (word, value) in bucket[start..].iter().zip(key.address_words()) {
        word.store(*value, Relaxed);
    }
    bucket[start + K::SLOT_WORDS - 1].store(key.state(entry), Relaxed);
}

/// Whether a reader that looks for `asked` ever gets the identity of another address. A writer adds the first address, removes it,
/// and adds both.
fn is_ever_misled<K: Key + Send + Sync + 'static>(added: [K; 2], asked: K) -> bool {
    let is_misled = std::sync::Arc::new(AtomicBool::new(false));
    let found = std::sync::Arc::clone(&is_misled);
    let mut model = Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let bucket: Arc<Bucket> = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
        let writer = {
            let bucket = Arc::clone(&bucket);
            thread::spawn(move || {
                let [first, second] = added;
                write(&bucket, 0, first, Entry::of(Identity(10)));
                write(&bucket, 0, first, Entry::ABSENT);
                write(&bucket, 1, second, Entry::of(Identity(11)));
                write(&bucket, 0, first, Entry::of(Identity(12)));
            })
        };
        let is_true = match look_up(&bucket, asked) {
            None => true,
            Some(Identity(10 | 12)) => asked == added[0],
            Some(Identity(11)) => asked == added[1],
            Some(_) => false,
        };
        if !is_true {
            found.store(true, Relaxed);
        }
        writer.join().unwrap();
    });
    is_misled.load(Relaxed)
}

#[test]
fn a_reader_never_gets_the_identity_of_another_address() {
    for asked in [V4(7), V4(9), V4(0)] {
        assert!(!is_ever_misled([V4(7), V4(9)], asked), "{asked:?}");
    }
    let added = [V6([5, 7]), V6([0, 7])];
    for asked in [V6([5, 7]), V6([0, 7]), V6([5, 0]), V6([0, 0])] {
        assert!(!is_ever_misled(added, asked), "{asked:?}");
    }
}

/// An IPv6 address whose state does not say which of its words are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shapeless(V6);

impl Key for Shapeless {
    const FAMILY: u32 = V6::FAMILY;
    const N_SLOTS: usize = V6::N_SLOTS;
    const N_TAKEN: usize = V6::N_TAKEN;
    const SLOT_WORDS: usize = V6::SLOT_WORDS;

    fn hash(self, seed: u64) -> u32 {
        self.0.hash(seed)
    }

    fn entry_at(self, bucket: impl Line, slot: usize) -> u32 {
        let V6([first, second]) = self.0;
        let start = slot * Self::SLOT_WORDS;
        let is_here = bucket.word(start) == first && bucket.word(start + 1) == second;
        if is_here { u32::try_from(bucket.word(start + 2)).unwrap() } else { 0 }
    }

    fn address_words(&self) -> &[u64] {
        self.0.address_words()
    }

    fn state(self, entry: Entry) -> u64 {
        entry.0.into()
    }

    fn slot(line: impl Line, slot: usize) -> Slot<Self> {
        match V6::slot(line, slot) {
            Slot::Free => Slot::Free,
            Slot::Of(key, entry) => Slot::Of(Self(key), entry),
        }
    }

    fn addr(self) -> Addr {
        self.0.addr()
    }
}

/// The model can fail: without the shape an address is found whose words are not all written yet.
#[test]
fn without_its_shape_in_the_state_an_address_would_be_taken_for_another() {
    let added = [V6([5, 7]), V6([6, 8])].map(Shapeless);
    assert!(is_ever_misled(added, Shapeless(V6([0, 7]))));
}
