//! Counters of packets by endpoint, direction and verdict.

use crate::event::EventBudget;
use crate::ids::{Direction, IfIndex};

wire! {
    /// Key of COUNTERS.
    pub struct CounterKey {
        /// The endpoint whose policy decided.
        pub ifindex: IfIndex,
        /// [`Direction::to_wire`] for that endpoint.
        pub direction: u8,
        /// [`Verdict::to_wire`](crate::reason::Verdict::to_wire).
        pub verdict: u8,
        /// Zero.
        pub pad: [u8; 2],
    }
}

impl CounterKey {
    /// The counter of a verdict.
    #[inline(always)]
    pub const fn new(ifindex: IfIndex, direction: Direction, verdict: u8) -> Self {
        let last = u32::from_ne_bytes([direction.to_wire(), verdict, 0, 0]);
        zerocopy::transmute!([ifindex.0, last])
    }
}

wire! {
    /// Value of COUNTERS, one per CPU.
    pub struct CounterValue {
        /// Packets.
        pub packets: u64,
        /// Bytes from the network header on.
        pub bytes: u64,
        /// The rate limit of their records.
        pub budget: EventBudget,
    }
}
