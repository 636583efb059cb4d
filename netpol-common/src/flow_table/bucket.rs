//! Buckets of flows: their layout, and which slot a new flow gets.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::hash::{owner, ports};
use crate::addr::Addr;
use crate::flow;
use crate::ids::{IfIndex, Nanos, PortBe, Protocol};
use crate::keys::{FlowEntry, FlowKey, FlowValue};

/// Slots of a bucket.
pub const N_SLOTS: usize = 8;
/// Binary logarithm of the nanoseconds in a tick, the unit of [`FlowBucket::ends`]: a tick has 1.07 s.
const TICK_NS_LOG2: u32 = 30;

/// A number of flows that no endpoint can have, so that larger numbers need not be distinguished.
const MAX_COUNTED: u32 = (1 << 24) - 1;

/// Flows whose hashes select the same bucket. 640 bytes, ten cache lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowBucket {
    /// [`FlowHash::mark`](super::FlowHash::mark) of the flow in each slot; 0 for a free slot.
    pub marks: [u64; N_SLOTS],
    /// The tick after which each flow has ended unless another packet arrives ([`end`]).
    pub ends: [u32; N_SLOTS],
    /// Zero.
    pub pad: [u64; 4],
    /// The flows.
    pub slots: [FlowSlot; N_SLOTS],
}

/// One flow. One cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowSlot {
    /// Odd while the slot is written. Every write leaves another number.
    pub number: u32,
    /// The pod's port and then the remote port, in memory order.
    pub ports: u32,
    /// The remote address.
    pub remote: Addr,
    /// The state of the flow.
    pub entry: FlowEntry,
}

/// The tick after which a flow has ended, unless another packet arrives.
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
    /// Whether this is the flow with this key, given that the slot has the mark of the key.
    #[inline(always)]
    pub fn holds(&self, key: &FlowKey) -> bool {
        self.ports == ports(key) && self.remote == key.remote
    }

    /// The key of the flow in a slot with this mark.
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

impl FlowBucket {
    /// The slot of a flow.
    #[inline(always)]
    pub fn find(&self, mark: u64, key: &FlowKey) -> Option<usize> {
        let mut slots = self.marks.iter().zip(&self.slots);
        slots.position(|(found, slot)| *found == mark && slot.holds(key))
    }

    /// A slot that is free or whose flow has ended.
    #[inline(always)]
    pub fn free(&self, now: u32) -> Option<usize> {
        self.marks.iter().zip(&self.ends).position(|(mark, end)| *mark == 0 || *end < now)
    }

    /// The slot of the flow that is evicted from a full bucket: of the endpoint that has the most flows in the table, the one that
    /// would end first. `n_flows` counts the flows of an endpoint in the whole table.
    #[inline(always)]
    pub fn victim(&self, n_flows: impl Fn(IfIndex) -> u32) -> usize {
        // The most flows win, then the earliest end. The lowest bits hold the index of the slot.
        let mut best = 0_u64;
        for (slot, (mark, end)) in (0_u64..).zip(self.marks.iter().zip(&self.ends)) {
            let n_flows = u64::from(n_flows(owner(*mark)).min(MAX_COUNTED));
            let score = (n_flows << 40) | (u64::from(!*end) << 8) | slot;
            if score > best {
                best = score;
            }
        }
        let [slot, ..] = best.to_le_bytes();
        usize::from(slot) % N_SLOTS
    }
}

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::flow_table::hash;
    use crate::ids::{Direction, Epoch, RuleId};

    const SEED: u64 = 0x1234_5678_9abc_def1;

    fn key(ifindex: u32, addr: Addr, ports: u32, protocol: Protocol) -> FlowKey {
        FlowKey::new(IfIndex(ifindex), addr, ports, protocol, FlowKey::AT_POD)
    }

    /// If this fails, a layout has changed: bump `maps::ABI_VERSION`.
    #[test]
    fn a_bucket_has_ten_cache_lines_and_a_slot_one() {
        assert_eq!(size_of::<FlowSlot>(), 64);
        assert_eq!(offset_of!(FlowSlot, entry), 24);
        assert_eq!(size_of::<FlowBucket>(), 640);
        assert_eq!(offset_of!(FlowBucket, ends), 64);
        assert_eq!(offset_of!(FlowBucket, slots), 128);
    }

    fn slot_of(key: &FlowKey) -> FlowSlot {
        let mut slot = FlowSlot::new_zeroed();
        slot.ports = ports(key);
        slot.remote = key.remote;
        slot
    }

    proptest! {
        #[test]
        fn a_key_can_be_read_back_from_its_slot(
            ifindex in 1_u32.., addr: [u8; 16], ports: u32, protocol: u8, stage in 0_u8..2, seed: u64,
        ) {
            let key = FlowKey::new(IfIndex(ifindex), Addr(addr), ports, Protocol(protocol), stage);
            let hash = hash(&key, seed, 0xff);
            prop_assert!(hash.bucket <= 0xff && hash.mark != 0);
            prop_assert_eq!(slot_of(&key).key(hash.mark), key);
        }

        #[test]
        fn the_endpoint_with_the_most_flows_loses_the_one_that_ends_first(
            owners in prop::array::uniform8(1_u64..5), ends in prop::array::uniform8(10_u32..14),
            n_flows in prop::array::uniform5(0_u32..4),
        ) {
            let mut bucket = FlowBucket::new_zeroed();
            bucket.marks = owners;
            bucket.ends = ends;
            prop_assert_eq!(bucket.free(9), None);
            let n_of = |slot: usize| n_flows[usize::try_from(owners[slot]).unwrap()];
            let most = (0..N_SLOTS).map(n_of).max().unwrap();
            let largest: BTreeSet<_> = (0..N_SLOTS).filter(|slot| n_of(*slot) == most).collect();
            let earliest = largest.iter().map(|slot| ends[*slot]).min().unwrap();
            let victim = bucket.victim(|owner| n_flows[usize::try_from(owner.0).unwrap()]);
            prop_assert!(largest.contains(&victim) && ends[victim] == earliest, "{victim} of {bucket:?}");
        }
    }

    #[test]
    fn a_flow_that_has_ended_is_replaced_first() {
        let mut bucket = FlowBucket::new_zeroed();
        assert_eq!(bucket.free(0), Some(0));
        bucket.marks = [1, 1, 1, 1, 1, 1, 1, 2];
        bucket.ends = [9; N_SLOTS];
        assert_eq!(bucket.free(9), None);
        bucket.ends[7] = 8;
        assert_eq!(bucket.free(9), Some(7));
    }

    #[test]
    fn a_flow_is_found_among_others_with_its_mark() {
        let wanted = key(3, Addr::from_v4([10, 0, 0, 1]), 80, Protocol::TCP);
        let other = key(3, Addr::from_v4([10, 0, 0, 2]), 80, Protocol::TCP);
        let mark = hash(&wanted, SEED, 0).mark;
        let mut bucket = FlowBucket::new_zeroed();
        bucket.marks[2] = mark;
        bucket.slots[2] = slot_of(&other);
        assert_eq!(bucket.find(mark, &wanted), None);
        bucket.marks[5] = mark;
        bucket.slots[5] = slot_of(&wanted);
        assert_eq!(bucket.find(mark, &wanted), Some(5));
        bucket.marks[5] = 0;
        assert_eq!(bucket.find(mark, &wanted), None);
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
