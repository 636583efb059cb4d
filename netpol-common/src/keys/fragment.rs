//! Datagrams in fragments: the ports, which only the first fragment holds.

use super::check::hash_words;
use crate::addr::Addr;
use crate::ids::{IfIndex, Nanos, PortBe, Protocol};
use crate::maps::N_FRAGMENT_SLOTS;

wire! {
    /// Key of FRAGMENTS. An endpoint has [`N_FRAGMENT_SLOTS`] in each direction and stage, so that fragments from or to one pod do not
    /// remove those of another.
    pub struct FragmentSlot {
        /// The pod's host interface.
        pub ifindex: IfIndex,
        /// Direction, stage, and the part of a hash of the datagram that is below [`N_FRAGMENT_SLOTS`].
        pub number: u32,
    }
}

wire! {
    /// Value of FRAGMENTS: one datagram of those that share the slot.
    pub struct FragmentEntry {
        /// The facts.
        pub value: FragmentValue,
        /// A hash of the datagram and `value`, so that neither another datagram nor parts of two values are taken for it.
        pub check: u64,
    }
}

wire! {
    /// The datagram that a fragment belongs to.
    pub struct FragmentKey {
        /// The pod's host interface.
        pub ifindex: IfIndex,
        /// IPv4 identification (16 bits) or IPv6 fragment identification, host byte order.
        pub id: u32,
        /// Source address.
        pub src: Addr,
        /// Destination address.
        pub dst: Addr,
        /// The IP protocol; zero for IPv6, because only the first fragment has it.
        pub protocol: Protocol,
        /// As [`FlowKey::stage`](super::FlowKey::stage).
        pub stage: u8,
        /// [`Direction::to_wire`](crate::ids::Direction::to_wire) of the packet.
        pub direction: u8,
        /// Zero.
        pub pad: u8,
    }
}

wire! {
    /// Facts that only the first fragment of a datagram has.
    pub struct FragmentValue {
        /// Coarse time of the first fragment.
        pub first_seen: Nanos,
        /// Source port.
        pub src_port: PortBe,
        /// Destination port.
        pub dst_port: PortBe,
        /// The transport protocol.
        pub protocol: Protocol,
        /// Zero.
        pub pad: [u8; 3],
    }
}

impl FragmentKey {
    /// Where FRAGMENTS holds the datagram. The seed is that of FLOWS, so that nobody outside can choose datagrams that share a slot.
    #[inline(always)]
    pub fn slot(&self, seed: u64) -> FragmentSlot {
        let words: &[u32; 11] = zerocopy::transmute_ref!(self);
        let seed: [u32; 2] = zerocopy::transmute!(seed);
        let number = hash_words(&seed, words) % N_FRAGMENT_SLOTS;
        let side = u32::from(self.direction) | (u32::from(self.stage) << 1);
        FragmentSlot { ifindex: self.ifindex, number: number | (side * N_FRAGMENT_SLOTS) }
    }
}

impl FragmentEntry {
    /// An entry for this datagram.
    #[inline(always)]
    pub fn new(key: &FragmentKey, value: &FragmentValue) -> Self {
        Self { value: *value, check: Self::check(key, value) }
    }

    /// The value, if all of it belongs to this datagram.
    #[inline(always)]
    pub fn value_of(&self, key: &FragmentKey) -> Option<&FragmentValue> {
        if self.check == Self::check(key, &self.value) { Some(&self.value) } else { None }
    }

    #[inline(always)]
    fn check(key: &FragmentKey, value: &FragmentValue) -> u64 {
        let key: &[u32; 11] = zerocopy::transmute_ref!(key);
        let value: &[u32; 4] = zerocopy::transmute_ref!(value);
        u64::from(hash_words(key, value))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::keys::FlowKey;
    use crate::maps::MAX_FRAGMENTS;

    const SEED: u64 = 0x1234_5678_9abc_def1;

    fn datagram(id: u32) -> FragmentKey {
        FragmentKey {
            ifindex: IfIndex(7),
            id,
            src: Addr::from_v4([10, 0, 0, 1]),
            dst: Addr::from_v4([10, 0, 0, 2]),
            protocol: Protocol::UDP,
            stage: FlowKey::AT_POD,
            direction: 0,
            pad: 0,
        }
    }

    #[test]
    fn an_endpoint_has_a_fixed_number_of_slots_in_each_direction() {
        let mut all = BTreeSet::new();
        for (direction, stage) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let slots: BTreeSet<_> = (0..10_000)
                .map(|id| FragmentKey { stage, direction, ..datagram(id) }.slot(SEED))
                .collect();
            assert_eq!(u32::try_from(slots.len()), Ok(N_FRAGMENT_SLOTS));
            assert!(slots.iter().all(|slot| slot.ifindex == IfIndex(7)));
            all.extend(slots);
        }
        // A full node, all of whose pods send nothing but first fragments.
        assert!(110 * all.len() < usize::try_from(MAX_FRAGMENTS).unwrap());
        let other_side = FragmentKey { direction: 1, ..datagram(1) };
        assert_ne!(other_side.slot(SEED), datagram(1).slot(SEED));
    }

    #[test]
    fn the_value_of_another_datagram_or_of_parts_is_not_found() {
        let value = FragmentValue {
            first_seen: Nanos(1 << 40),
            src_port: PortBe::new(1000),
            dst_port: PortBe::new(53),
            protocol: Protocol::UDP,
            pad: [0; 3],
        };
        let entry = FragmentEntry::new(&datagram(1), &value);
        assert_eq!(entry.value_of(&datagram(1)), Some(&value));
        assert_eq!(entry.value_of(&datagram(2)), None);
        let mixed = FragmentValue { dst_port: PortBe::new(80), ..value };
        assert_eq!(FragmentEntry { value: mixed, ..entry }.value_of(&datagram(1)), None);
    }
}
