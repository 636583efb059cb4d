//! The table of identities of single addresses: how it lies in memory, and how an address is found there.
//!
//! In: words of memory. Out: what they say of an address. The agent writes the words while programs read them, on other
//! processors and without a lock: by single stores into the memory of an array map, which both share. Must not: write.
//!
//! # Layout
//! A family has a table of its own, at its place in [`crate::maps::IDENTITIES`]: an array of *lines* of 64 bytes, as the
//! processor's cache has them. Line 0 is the [`Header`], all others are *buckets*. An address has its home bucket, by a hash
//! with a random seed. If that is full, its entry stands in one of the [`MAX_REACH`] buckets behind it, and the last word of
//! the home bucket says how far one has to look: its *reach*. So most questions are answered by one line, and what is not
//! there is known not to be there.
//!
//! # What a reader can see
//! An entry never moves within a table. When there is no room, a new table with all that the old one has takes its place in one
//! step. So a reader that comes upon an address that has an entry all the while finds that entry. It remains that it must never
//! take the identity of *another* address, although entries go and come while it reads, and although a processor may read the
//! words of a line in another order than it was told to (arm64). A word by itself is always read as it was written.
//!
//! * An IPv4 entry is one word, that holds the address and the identity ([`V4`]).
//! * An IPv6 entry is three words ([`V6`]): two of the address, and the *state*. From the first store on, the words of the
//!   address never change for as long as the table lives: the slot of an entry that is removed is kept for that very address,
//!   until the table is replaced. So whoever reads them sees what they are, A0 and A1, or, if he comes too early, zeros in
//!   place of one or of both. Too early can he only be for an address with a word that is not zero where he reads a zero.
//!   That is what the state tells too: which words of its address are zero. A reader that looks for B and has read a state of
//!   A that agrees with B in that has the words of B before him, and each of them is A's or zero. Where B's word is zero, A's
//!   is too, says the state. Where it is not, what was read there is not zero, and so it is A's. So A is B.
//!
//! The reach of a home is raised before an entry is written that far from it, and lowered after such an entry is gone.

use crate::addr::Addr;
use crate::ids::Identity;

/// Words of 8 bytes in a line.
pub const LINE_WORDS: usize = 8;
/// So many buckets behind its home an entry may stand at the most.
pub const MAX_REACH: u32 = 7;
/// Families: an IPv4 table, and an IPv6 table.
pub const N_FAMILIES: u32 = 2;
/// The word of a bucket that says how far entries stand that have their home here.
pub const REACH_WORD: usize = LINE_WORDS - 1;

/// One line of a table.
pub trait Line: Copy {
    /// One of its [`LINE_WORDS`] words, read as a whole.
    fn word(self, index: usize) -> u64;
}

/// Line 0: what makes one table differ from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The number of buckets, a power of two, less one.
    pub mask: u32,
    /// What hashes depend on.
    pub seed: u64,
}

impl Header {
    /// As a line says it.
    #[inline(always)]
    pub fn read(line: impl Line) -> Self {
        let [_, mask] = halves(line.word(0));
        Self { mask, seed: line.word(1) }
    }

    /// The first words of the line that says it.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        [word([0, self.mask]), self.seed]
    }

    /// The number of the line that is so many buckets behind the home of a hash.
    #[inline(always)]
    pub const fn line(&self, hash: u32, distance: u32) -> u32 {
        (hash.wrapping_add(distance) & self.mask) + 1
    }
}

/// What a table says of an address.
///
/// Nothing is 0. The number behind [`Identity::LAST`] stands for an entry that says [`Identity::NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u32);

impl Entry {
    /// The address has no entry.
    pub const ABSENT: Self = Self(0);
    const NONE: Self = Self(Identity::LAST.0 + 1);

    /// The entry that says this identity.
    #[inline(always)]
    pub const fn of(identity: Identity) -> Self {
        if identity.0 == Identity::NONE.0 { Self::NONE } else { Self(identity.0) }
    }

    /// What it says, if it is one.
    #[inline(always)]
    pub const fn identity(self) -> Option<Identity> {
        match self {
            Self::ABSENT => None,
            Self::NONE => Some(Identity::NONE),
            Self(identity) => Some(Identity(identity)),
        }
    }

    /// Whether the address has an entry.
    #[inline(always)]
    pub const fn is_present(self) -> bool {
        self.0 != Self::ABSENT.0
    }
}

/// What stands in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot<K> {
    /// Nothing, since the table was made: any address may have it.
    Free,
    /// An address, with its entry, or with [`Entry::ABSENT`] where the slot is only kept for it.
    Of(K, Entry),
}

/// An address of one family, and how its entries lie in a line.
pub trait Key: Copy + Eq {
    /// Where the family's table is in [`crate::maps::IDENTITIES`].
    const FAMILY: u32;
    /// Slots of a bucket.
    const N_SLOTS: usize;
    /// So many of them are taken at the most, on average: most entries stand in their home buckets, nearly all others in the next.
    const N_TAKEN: usize;
    /// Words of a slot, one behind the other: the address, where it has words of its own, then the state.
    const SLOT_WORDS: usize;

    /// What decides which bucket is its home.
    fn hash(self, seed: u64) -> u32;
    /// The entry in a slot of a bucket if it is this address's, else 0. Without branches.
    fn entry_at(self, bucket: impl Line, slot: usize) -> u32;
    /// What a bucket says of this address. Without branches: in which slot an address stands nobody can foresee, and a processor that
    /// has guessed wrong begins anew only when the line is there.
    #[inline(always)]
    fn entry_in(self, bucket: impl Line) -> Entry {
        let mut found = 0;
        let mut slot = 0;
        while slot < Self::N_SLOTS {
            found = either(self.entry_at(bucket, slot), found);
            slot += 1;
        }
        Entry(found)
    }
    /// The words of the address, as many as a slot has before its state.
    fn address_words(&self) -> &[u64];
    /// The last word of this address's slot.
    fn state(self, entry: Entry) -> u64;
    /// What stands in a slot of a line.
    fn slot(line: impl Line, slot: usize) -> Slot<Self>;
    /// The address.
    fn addr(self) -> Addr;
}

/// An IPv4 address as it stands in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4(pub u32);

impl V4 {
    /// That of an address that is IPv4.
    #[inline(always)]
    pub const fn of(addr: &Addr) -> Self {
        Self(addr.words()[3])
    }
}

impl Key for V4 {
    const FAMILY: u32 = 0;
    const N_SLOTS: usize = 7;
    const N_TAKEN: usize = 5;
    const SLOT_WORDS: usize = 1;

    #[inline(always)]
    fn hash(self, seed: u64) -> u32 {
        finish(u64::from(self.0) ^ seed)
    }

    #[inline(always)]
    fn entry_at(self, bucket: impl Line, slot: usize) -> u32 {
        let [entry, difference] = halves(bucket.word(slot) ^ u64::from(self.0));
        if_zero(u64::from(difference), entry)
    }

    #[inline(always)]
    fn address_words(&self) -> &[u64] {
        &[]
    }

    /// That of an absent entry is that of a slot which any address may have.
    #[inline(always)]
    fn state(self, entry: Entry) -> u64 {
        if entry.is_present() { word([entry.0, self.0]) } else { 0 }
    }

    #[inline(always)]
    fn slot(line: impl Line, slot: usize) -> Slot<Self> {
        match line.word(slot) {
            0 => Slot::Free,
            state => {
                let [entry, addr] = halves(state);
                Slot::Of(Self(addr), Entry(entry))
            }
        }
    }

    #[inline(always)]
    fn addr(self) -> Addr {
        Addr::from_v4_word(self.0)
    }
}

/// An IPv6 address: its bytes in two words, each in memory order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6(pub [u64; 2]);

impl V6 {
    /// In the upper half of a state: there is an address in front of it.
    const IS_TAKEN: u32 = 1;

    /// That of an address that is IPv6.
    #[inline(always)]
    pub const fn of(addr: &Addr) -> Self {
        Self(zerocopy::transmute!(addr.0))
    }

    /// The upper half of the state of this address: which of its words are zero.
    #[inline(always)]
    const fn shape(self) -> u32 {
        let [first, second] = self.0;
        Self::IS_TAKEN | ((first == 0) as u32) << 1 | ((second == 0) as u32) << 2
    }
}

impl Key for V6 {
    const FAMILY: u32 = 1;
    const N_SLOTS: usize = 2;
    const N_TAKEN: usize = 1;
    const SLOT_WORDS: usize = 3;

    #[inline(always)]
    fn hash(self, seed: u64) -> u32 {
        let [first, second] = self.0;
        finish(mix(first ^ seed) ^ second)
    }

    #[inline(always)]
    fn entry_at(self, bucket: impl Line, slot: usize) -> u32 {
        let [first, second] = self.0;
        let start = slot * Self::SLOT_WORDS;
        let [shape, entry] = halves(bucket.word(start + 2));
        let difference = (bucket.word(start) ^ first)
            | (bucket.word(start + 1) ^ second)
            | u64::from(shape ^ self.shape());
        let [upper, lower] = halves(difference);
        if_zero(u64::from(upper | lower), entry)
    }

    #[inline(always)]
    fn address_words(&self) -> &[u64] {
        &self.0
    }

    #[inline(always)]
    fn state(self, entry: Entry) -> u64 {
        word([self.shape(), entry.0])
    }

    /// Whoever died between two stores has left an address without a state: that slot is this address's too.
    #[inline(always)]
    fn slot(line: impl Line, slot: usize) -> Slot<Self> {
        let start = slot * Self::SLOT_WORDS;
        let (addr, state) = ([line.word(start), line.word(start + 1)], line.word(start + 2));
        if addr == [0; 2] && state == 0 {
            return Slot::Free;
        }
        let [_, entry] = halves(state);
        Slot::Of(Self(addr), Entry(entry))
    }

    #[inline(always)]
    fn addr(self) -> Addr {
        Addr(zerocopy::transmute!(self.0))
    }
}

/// What the table with these lines says of an address. A line that is not there says nothing.
///
/// The header is read again for each bucket, though mostly there is only one: BPF has little stack, and what is read again need
/// not be kept.
#[inline(always)]
pub fn find<K: Key, L: Line>(line: impl Fn(u32) -> Option<L>, key: K) -> Entry {
    let (mut distance, mut reach) = (0, 0);
    while distance <= MAX_REACH {
        let Some(header) = line(0) else { return Entry::ABSENT };
        let header = Header::read(header);
        let number = header.line(key.hash(header.seed), distance);
        let Some(bucket) = line(number) else { return Entry::ABSENT };
        let entry = key.entry_in(bucket);
        if entry.is_present() {
            return entry;
        }
        if distance == 0 {
            reach = bucket.word(REACH_WORD);
        }
        if u64::from(distance) >= reach {
            return Entry::ABSENT;
        }
        distance += 1;
    }
    Entry::ABSENT
}

/// The first number, unless it is zero, else the second one. An address that goes from one slot to another is perhaps seen in both.
#[inline(always)]
const fn either(first: u32, second: u32) -> u32 {
    first | if_zero(first as u64, second)
}

/// `number` if a difference of 32 bits is zero, else 0.
#[inline(always)]
const fn if_zero(difference: u64, number: u32) -> u32 {
    // One less is beyond 32 bits for zero alone.
    let [mask, _] = halves(difference.wrapping_sub(1));
    mask & number
}

/// Two odd numbers whose bits follow no pattern: those of the golden ratio, and of the square root of three.
const FACTORS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbb67_ae85_84ca_a73b];

/// A permutation of all numbers.
#[inline(always)]
const fn mix(number: u64) -> u64 {
    let product = number.wrapping_mul(FACTORS[0]);
    product ^ (product >> 32)
}

/// The upper half of a product depends on all bits of its factors.
#[inline(always)]
const fn finish(number: u64) -> u32 {
    let [hash, _] = halves(mix(number).wrapping_mul(FACTORS[1]));
    hash
}

/// The upper and the lower half.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the other half is beside it")]
const fn halves(word: u64) -> [u32; 2] {
    [(word >> 32) as u32, word as u32]
}

/// The word with these halves.
#[inline(always)]
const fn word([upper, lower]: [u32; 2]) -> u64 {
    (upper as u64) << 32 | lower as u64
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    impl Line for [u64; LINE_WORDS] {
        fn word(self, index: usize) -> u64 {
            self[index]
        }
    }

    const ADDRESSES: [[u64; 2]; 6] = [[0, 0], [0, 7], [7, 0], [7, 7], [7, 9], [9, 7]];

    #[test]
    fn an_entry_says_what_it_was_made_of() {
        for identity in [Identity::NONE, Identity::ANY, Identity::FIRST, Identity::LAST] {
            assert_eq!(Entry::of(identity).identity(), Some(identity));
            assert!(Entry::of(identity).is_present());
        }
        assert_eq!(Entry::ABSENT.identity(), None);
    }

    #[test]
    fn addresses_and_headers_survive_the_round_trip() {
        let v4 = Addr::from(Ipv4Addr::new(10, 1, 2, 3));
        assert_eq!(V4::of(&v4).addr(), v4);
        let v6 = Addr(Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, 7).octets());
        assert_eq!(V6::of(&v6).addr(), v6);
        let header = Header { mask: 0xfff, seed: u64::MAX - 5 };
        let [first, second] = header.words();
        assert_eq!(Header::read([first, second, 0, 0, 0, 0, 0, 0]), header);
    }

    /// All that a reader can have before him while the entry of an address comes: each word old or new, in any order.
    #[test]
    fn a_reader_that_comes_too_early_never_takes_the_identity_of_another_address() {
        let entry = Entry::of(Identity(5));
        for new in ADDRESSES.map(V6) {
            let [first, second] = new.0;
            for seen in 0..8_u64 {
                let word = |bit: u64, word: u64| if seen & bit == 0 { 0 } else { word };
                let line =
                    [word(1, first), word(2, second), word(4, new.state(entry)), 0, 0, 0, 0, 0];
                for asked in ADDRESSES.map(V6) {
                    let said = asked.entry_in(line);
                    assert!(!said.is_present() || asked == new, "{asked:?} in {line:?}");
                    assert!(seen != 7 || said.is_present() == (asked == new));
                }
            }
        }
    }

    #[test]
    fn a_slot_that_nobody_finished_is_not_given_to_another_address() {
        let line = [7, 0, 0, 0, 9, 0, 0, 0];
        assert_eq!(V6::slot(line, 0), Slot::Of(V6([7, 0]), Entry::ABSENT));
        assert_eq!(V6::slot(line, 1), Slot::Of(V6([0, 9]), Entry::ABSENT));
        assert_eq!(V6::slot([0; 8], 0), Slot::Free);
        let unspecified = V6([0, 0]);
        let state = unspecified.state(Entry::ABSENT);
        assert_eq!(V6::slot([0, 0, state, 0, 0, 0, 0, 0], 0), Slot::Of(unspecified, Entry::ABSENT));
    }

    #[test]
    fn a_removed_ipv4_entry_leaves_its_slot_to_any_address() {
        let key = V4(7);
        let present = key.state(Entry::of(Identity(5)));
        let line = [present, key.state(Entry::ABSENT), 0, 0, 0, 0, 0, 0];
        assert_eq!(V4::slot(line, 0), Slot::Of(key, Entry(5)));
        assert_eq!(V4::slot(line, 1), Slot::Free);
        assert_eq!(key.entry_in(line), Entry(5));
        assert_eq!(V4(0).entry_in(line), Entry::ABSENT);
        // Seen in two slots, which a reader can that was under way all the while: one of what it was.
        let twice = [present, 0, key.state(Entry::of(Identity(6))), 0, 0, 0, 0, 0];
        assert!([Entry(5), Entry(6)].contains(&key.entry_in(twice)));
    }

    /// Addresses of pods are neighbours: each bucket should have as many of them as of any others.
    #[test]
    fn neighbours_are_spread() {
        const N_BUCKETS: usize = 256;
        let check = |hash: &dyn Fn(u32) -> u32| {
            let mut counts = [0_u32; N_BUCKETS];
            for number in 0..4096 {
                let line = Header { mask: 255, seed: 0 }.line(hash(number), 0);
                counts[usize::try_from(line).unwrap() - 1] += 1;
            }
            // 16 are expected; a fair die comes to 36 once in 100,000 buckets.
            assert!(counts.iter().all(|count| (1..36).contains(count)), "{counts:?}");
        };
        for seed in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            let v4 = |number: u32| V4((0x0a00_0000 + number).to_be());
            check(&|number| v4(number).hash(seed));
            let v6 = |number: u32| Ipv6Addr::from_bits((0xfd << 120) + u128::from(number));
            check(&|number| V6::of(&Addr(v6(number).octets())).hash(seed));
            let nets =
                |number: u32| Ipv6Addr::from_bits((0xfd << 120) + (u128::from(number) << 64));
            check(&|number| V6::of(&Addr(nets(number).octets())).hash(seed));
        }
    }
}
