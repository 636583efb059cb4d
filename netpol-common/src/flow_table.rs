//! FLOWS, the table of connections: where one stands, and which one makes room.
//!
//! In: keys, sets of the table, the coarse time. Out: ways and marks. Pure; the kernel programs bring the memory and the order
//! of loads and stores.
//!
//! The table is an array of sets. The hash of a connection's key tells its set, and there it has one of [`N_WAYS`] ways. So a
//! look-up reads two lines of the processor's cache: the marks of the set, and the slot of the way. One that finds nothing reads
//! one. The kernel's own LRU table reads four, and for a new connection moves others through its lists besides.
//!
//! * **Who makes room.** In a full set one that has ended does, else one of the endpoint that holds the most ways there,
//!   of these the one that would end first. So a flood evicts its own, and of one endpoint what was only begun goes
//!   before what is established.
//! * **Writers** hold the set's lock ([`crate::maps::FLOW_LOCKS`]). The number of a slot is odd while it is written.
//! * **Readers** hold none. They take the slot's number, find the mark unchanged, read, and find the number unchanged: then
//!   what they have read belongs together. This needs loads and stores in their order, as on x86. Where processors change
//!   it (arm64) a reader may see one packet's worth of another connection, as with any LRU table of the kernel.
//! * **User space** writes nothing but zeros over marks, by comparing and exchanging: the way is free then.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::Addr;
use crate::flow;
use crate::ids::{IfIndex, Nanos, PortBe, Protocol};
use crate::keys::{FlowEntry, FlowKey, FlowValue};

/// Connections of one set.
pub const N_WAYS: usize = 8;
/// Nanoseconds of a tick, in which [`FlowSet::ends`] counts: as many seconds, nearly.
const TICK_NS_LOG2: u32 = 30;

/// Connections whose keys have the same part of their hash in common. 640 bytes, ten lines of the processor's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowSet {
    /// [`Place::mark`] of the connection in each way, 0 for a free way.
    pub marks: [u64; N_WAYS],
    /// When each ends unless a packet comes, in ticks of the monotonic clock ([`end`]).
    pub ends: [u32; N_WAYS],
    /// Room for [`FlowSet::shares`] while a way is chosen: what the verifier of the kernel knows of the number it would follow into
    /// every case.
    pub shares: u64,
    /// Zero.
    pub pad: [u64; 3],
    /// The connections.
    pub slots: [FlowSlot; N_WAYS],
}

/// One connection in its way. One line of the processor's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowSlot {
    /// Odd while it is written, another one afterwards.
    pub number: u32,
    /// The pod's port and then the other end's, as they stand in memory.
    pub ports: u32,
    /// The other end.
    pub remote: Addr,
    /// What is known of it.
    pub entry: FlowEntry,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The set's index.
    pub set: u32,
    /// What marks its way: the interface, and from bit 32 on 16 bits of the hash, the protocol and the stage. Not zero.
    pub mark: u64,
}

/// The place of a connection in a table with `set_mask + 1` sets, a power of two. `seed` is the table's.
#[inline(always)]
pub const fn place(key: &FlowKey, seed: u64, set_mask: u32) -> Place {
    let [ifindex, a, b, c, d, ports, rest] = *key.words();
    let hash = mix(seed ^ wide(ifindex, ports));
    let hash = mix(hash ^ wide(a, b));
    let hash = mix(hash ^ wide(c, d) ^ wide(0, rest << 8));
    let mark = wide(ifindex, rest << 16) | ((hash >> 16) & (0xffff << 32));
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
    Place { set: hash as u32 & set_mask, mark }
}

#[inline(always)]
const fn wide(low: u32, high: u32) -> u64 {
    low as u64 | ((high as u64) << 32)
}

/// Spreads every bit over the number. Multiplying carries bits up only: those that stand high are brought down before, and the sum
/// of all behind.
#[inline(always)]
const fn mix(number: u64) -> u64 {
    let product = (number ^ (number >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

/// The ports of a key as [`FlowSlot::ports`] has them.
#[inline(always)]
pub const fn ports(key: &FlowKey) -> u32 {
    let [.., ports, _] = *key.words();
    ports
}

/// The tick after which a connection has ended, unless a packet comes.
#[inline(always)]
pub const fn end(flow: &FlowValue, protocol: Protocol) -> u32 {
    tick(Nanos(flow.last_seen.0.saturating_add(flow::timeout_ns(protocol, flow.state))))
}

/// The tick of a time.
#[inline(always)]
pub const fn tick(time: Nanos) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "in 146 years")]
    {
        (time.0 >> TICK_NS_LOG2) as u32
    }
}

impl FlowSlot {
    /// Whether the connection with this key is here, given that its way bears the key's mark.
    #[inline(always)]
    pub fn holds(&self, key: &FlowKey) -> bool {
        self.ports == ports(key) && self.remote == key.remote
    }

    /// The key of the connection in a way with this mark.
    pub fn key(&self, mark: u64) -> FlowKey {
        let [.., protocol, stage] = mark.to_le_bytes();
        let [l0, l1, r0, r1] = self.ports.to_ne_bytes();
        FlowKey {
            ifindex: owner(mark),
            remote: self.remote,
            local_port: PortBe([l0, l1]),
            remote_port: PortBe([r0, r1]),
            protocol: Protocol(protocol),
            stage,
            pad: [0; 2],
        }
    }
}

impl FlowSet {
    /// The way of a connection that is here.
    #[inline(always)]
    pub fn find(&self, mark: u64, key: &FlowKey) -> Option<usize> {
        let mut ways = self.marks.iter().zip(&self.slots);
        ways.position(|(found, slot)| *found == mark && slot.holds(key))
    }

    /// A way that is free or whose connection has ended.
    #[inline(always)]
    pub fn free(&self, now: u32) -> Option<usize> {
        self.marks.iter().zip(&self.ends).position(|(mark, end)| *mark == 0 || *end < now)
    }

    /// How many other ways each way's owner has, eight bits for each.
    #[inline(always)]
    pub fn shares(&self) -> u64 {
        let mut shares = 0_u64;
        for (way, mark) in self.marks.iter().enumerate() {
            for (other, mark_there) in self.marks.iter().enumerate().skip(way + 1) {
                if owner(*mark) == owner(*mark_there) {
                    shares += (1 << (8 * way)) + (1 << (8 * other));
                }
            }
        }
        shares
    }

    /// The way of who makes room in a full set with these [`FlowSet::shares`].
    #[inline(always)]
    pub fn victim(&self, shares: u64) -> usize {
        // The largest share first, then the earliest end; the way itself stands in the lowest bits.
        let mut best = 0_u64;
        for (way, end) in (0_u64..).zip(&self.ends) {
            let share = (shares >> (8 * way)) & 0xff;
            let score = (share << 40) | (u64::from(!*end) << 8) | way;
            if score > best {
                best = score;
            }
        }
        let [way, ..] = best.to_le_bytes();
        usize::from(way) % N_WAYS
    }
}

/// The interface in a mark, of a free way 0.
#[inline(always)]
pub const fn owner(mark: u64) -> IfIndex {
    let [i0, i1, i2, i3, ..] = mark.to_le_bytes();
    IfIndex(u32::from_le_bytes([i0, i1, i2, i3]))
}

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use proptest::prelude::*;
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::ids::{Direction, Epoch, RuleId};

    const SEED: u64 = 0x1234_5678_9abc_def1;

    fn key(ifindex: u32, addr: Addr, ports: u32, protocol: Protocol) -> FlowKey {
        FlowKey::new(IfIndex(ifindex), addr, ports, protocol, FlowKey::AT_POD)
    }

    /// A failure here is a change of the wire: bump `maps::ABI_VERSION`.
    #[test]
    fn a_set_fills_ten_lines_and_a_slot_one() {
        assert_eq!(size_of::<FlowSlot>(), 64);
        assert_eq!(offset_of!(FlowSlot, entry), 24);
        assert_eq!(size_of::<FlowSet>(), 640);
        assert_eq!(offset_of!(FlowSet, ends), 64);
        assert_eq!(offset_of!(FlowSet, shares), 96);
        assert_eq!(offset_of!(FlowSet, slots), 128);
    }

    #[test]
    fn connections_that_are_much_alike_spread_over_all_sets() {
        let n_sets = 64_u32;
        let check = |keys: Vec<FlowKey>| {
            let mut by_set = [0_u32; 64];
            for key in &keys {
                let set = usize::try_from(place(key, SEED, n_sets - 1).set).unwrap();
                by_set[set] += 1;
            }
            // A hundred each would be even; six standard deviations.
            assert!(by_set.iter().all(|n| (40..=160).contains(n)), "{by_set:?}");
        };
        let v4 = |n: u32| Addr::from_v4_word(n.to_be());
        let v6 = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            Addr([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d])
        };
        let numbers = 0..6400_u32;
        check(numbers.clone().map(|n| key(7, v4(0x0a00_0000 + n), 80, Protocol::TCP)).collect());
        check(numbers.clone().map(|n| key(7, v6(n), 80, Protocol::TCP)).collect());
        check(numbers.clone().map(|n| key(7, v4(1), n << 16, Protocol::UDP)).collect());
        check(numbers.clone().map(|n| key(7, v4(1), n, Protocol::UDP)).collect());
        check(numbers.map(|n| key(n + 1, v4(1), 80, Protocol::UDP)).collect());
    }

    fn slot_of(key: &FlowKey) -> FlowSlot {
        let mut slot = FlowSlot::new_zeroed();
        slot.ports = ports(key);
        slot.remote = key.remote;
        slot
    }

    proptest! {
        #[test]
        fn a_key_can_be_read_back_from_its_way(
            ifindex in 1_u32.., addr: [u8; 16], ports: u32, protocol: u8, stage in 0_u8..2, seed: u64,
        ) {
            let key = FlowKey::new(IfIndex(ifindex), Addr(addr), ports, Protocol(protocol), stage);
            let place = place(&key, seed, 0xff);
            prop_assert!(place.set <= 0xff && place.mark != 0);
            prop_assert_eq!(slot_of(&key).key(place.mark), key);
        }

        #[test]
        fn who_has_most_makes_room_and_of_those_what_ends_first(
            owners in prop::array::uniform8(1_u64..5), ends in prop::array::uniform8(10_u32..14),
        ) {
            let mut set = FlowSet::new_zeroed();
            set.marks = owners;
            set.ends = ends;
            prop_assert_eq!(set.free(9), None);
            let n_of = |way: usize| owners.iter().filter(|owner| **owner == owners[way]).count();
            let most = (0..N_WAYS).map(n_of).max().unwrap();
            let largest: BTreeSet<_> = (0..N_WAYS).filter(|way| n_of(*way) == most).collect();
            let earliest = largest.iter().map(|way| ends[*way]).min().unwrap();
            let victim = set.victim(set.shares());
            prop_assert!(largest.contains(&victim) && ends[victim] == earliest, "{victim} of {set:?}");
        }
    }

    #[test]
    fn what_has_ended_makes_room_before_anything_else() {
        let mut set = FlowSet::new_zeroed();
        assert_eq!(set.free(0), Some(0));
        set.marks = [1, 1, 1, 1, 1, 1, 1, 2];
        set.ends = [9; N_WAYS];
        assert_eq!(set.free(9), None);
        set.ends[7] = 8;
        assert_eq!(set.free(9), Some(7));
    }

    #[test]
    fn a_connection_is_found_among_others_with_its_mark() {
        let wanted = key(3, Addr::from_v4([10, 0, 0, 1]), 80, Protocol::TCP);
        let other = key(3, Addr::from_v4([10, 0, 0, 2]), 80, Protocol::TCP);
        let mark = place(&wanted, SEED, 0).mark;
        let mut set = FlowSet::new_zeroed();
        set.marks[2] = mark;
        set.slots[2] = slot_of(&other);
        assert_eq!(set.find(mark, &wanted), None);
        set.marks[5] = mark;
        set.slots[5] = slot_of(&wanted);
        assert_eq!(set.find(mark, &wanted), Some(5));
        set.marks[5] = 0;
        assert_eq!(set.find(mark, &wanted), None);
    }

    #[test]
    fn an_end_is_never_before_the_timeout() {
        let flow = |state| {
            let facts = [Direction::Egress.to_wire(), state, 0];
            FlowValue::new(Nanos(5_000_000_000), Epoch(1), RuleId::NONE, facts)
        };
        for (protocol, state) in [(Protocol::UDP, flow::OPENING), (Protocol::TCP, flow::OPEN)] {
            let flow = flow(state);
            let last = Nanos(flow.last_seen.0 + flow::timeout_ns(protocol, state));
            assert!(!flow::is_expired(&flow, protocol, last));
            assert!(end(&flow, protocol) >= tick(last));
        }
    }
}
