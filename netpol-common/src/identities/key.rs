//! Addresses of both families, and the layout of their entries in a bucket.

use super::entry::{Entry, Slot};
use super::hash::{finish, mix};
use super::line::{Line, halves, word};
use crate::addr::Addr;

/// An address of one family, and the layout of its entries in a line.
pub trait Key: Copy + Eq {
    /// Index of the family's table in [`IDENTITIES`](crate::maps::IDENTITIES).
    const FAMILY: u32;
    /// Slots of a bucket.
    const N_SLOTS: usize;
    /// Slots that may be in use on average. At this load most entries are in their home bucket, and nearly all others in the next
    /// one.
    const N_TAKEN: usize;
    /// Words of a slot: the address, if it has words of its own, then the state.
    const SLOT_WORDS: usize;

    /// The hash that selects the home bucket.
    fn hash(self, seed: u64) -> u32;
    /// The entry in a slot of a bucket if the slot belongs to this address, else 0. Without branches.
    fn entry_at(self, bucket: impl Line, slot: usize) -> u32;
    /// The entry of this address in a bucket. Without branches, because a processor cannot predict the slot, and a wrong prediction
    /// is noticed only when the line has arrived from memory.
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
    /// The words of the address that precede the state in a slot.
    fn address_words(&self) -> &[u64];
    /// The last word of this address's slot.
    fn state(self, entry: Entry) -> u64;
    /// The content of a slot of a line.
    fn slot(line: impl Line, slot: usize) -> Slot<Self>;
    /// The address.
    fn addr(self) -> Addr;
}

/// An IPv4 address in the byte order of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4(pub u32);

impl V4 {
    /// The key of an IPv4 address.
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

    /// The state of an absent entry is that of a free slot, because the slot has no other word.
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

/// An IPv6 address: its bytes in two words, in memory order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6(pub [u64; 2]);

impl V6 {
    /// In the upper half of a state: the slot belongs to an address.
    const IS_TAKEN: u32 = 1;

    /// The key of an IPv6 address.
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

    /// An agent that died between two stores has left an address without a state. The slot belongs to that address.
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

/// The first number, unless it is zero, else the second one. An address that moves from one slot to another may be found in both.
#[inline(always)]
const fn either(first: u32, second: u32) -> u32 {
    first | if_zero(first as u64, second)
}

/// `number` if a difference of 32 bits is zero, else 0.
#[inline(always)]
const fn if_zero(difference: u64, number: u32) -> u32 {
    // Zero alone has a predecessor of more than 32 bits.
    let [mask, _] = halves(difference.wrapping_sub(1));
    mask & number
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::identities::{Header, LINE_WORDS};
    use crate::ids::Identity;

    impl Line for [u64; LINE_WORDS] {
        fn word(self, index: usize) -> u64 {
            self[index]
        }
    }

    const ADDRESSES: [[u64; 2]; 6] = [[0, 0], [0, 7], [7, 0], [7, 7], [7, 9], [9, 7]];

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

    /// A reader can see any combination of old and new words while the entry of an address is written.
    #[test]
    fn an_early_reader_never_takes_the_identity_of_another_address() {
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
    fn an_unfinished_slot_is_not_given_to_another_address() {
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
        // A slow reader can find the address in two slots, with either entry.
        let twice = [present, 0, key.state(Entry::of(Identity(6))), 0, 0, 0, 0, 0];
        assert!([Entry(5), Entry(6)].contains(&key.entry_in(twice)));
    }

    /// Addresses of pods are neighbours. They should be spread over the buckets as evenly as others.
    #[test]
    fn neighbours_are_spread() {
        const N_BUCKETS: usize = 256;
        let check = |hash: &dyn Fn(u32) -> u32| {
            let mut counts = [0_u32; N_BUCKETS];
            for number in 0..4096 {
                let line = Header { mask: 255, seed: 0 }.line(hash(number), 0);
                counts[usize::try_from(line).unwrap() - 1] += 1;
            }
            // 16 are expected. A uniform distribution reaches 36 once in 100,000 buckets.
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
