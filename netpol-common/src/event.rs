//! Records of the event ring.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::Addr;
use crate::ids::{IfIndex, Nanos, PortBe, Protocol, RuleId};

/// A packet that was dropped, or that passed only because of audit mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// Coarse monotonic time.
    pub time: Nanos,
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// The endpoint whose policy decided.
    pub ifindex: IfIndex,
    /// The rule that decided, if one did.
    pub rule: RuleId,
    /// Packet length in bytes from the network header on, native byte order.
    pub len_bytes: u32,
    /// Source port, or zero.
    pub src_port: PortBe,
    /// Destination port, or zero.
    pub dst_port: PortBe,
    /// The IP protocol; zero if the packet could not be parsed.
    pub protocol: Protocol,
    /// [`Direction::to_wire`](crate::ids::Direction::to_wire) for the endpoint.
    pub direction: u8,
    /// [`Verdict::to_wire`](crate::reason::Verdict::to_wire).
    pub verdict: u8,
    /// Zero.
    pub pad: u8,
    /// Records of this endpoint and verdict that this CPU has suppressed since its last one because of the rate limit.
    pub n_suppressed: u32,
}

/// The rate limit of records. Each CPU has one budget for each endpoint, direction and verdict, so a flood of one kind suppresses no
/// other.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct EventBudget {
    /// Start of the window.
    pub window_start: Nanos,
    /// Records written in it.
    pub n_written: u32,
    /// Records suppressed since the last one written.
    pub n_suppressed: u32,
}

impl EventBudget {
    /// Length of a window.
    pub const WINDOW_NS: u64 = 1_000_000_000;
    /// Records in a window: enough to show the peers of a misconfigured pod, and few enough to cost nothing.
    pub const PER_WINDOW: u32 = 32;

    /// An unused budget.
    pub const fn new(now: Nanos) -> Self {
        Self { window_start: now, n_written: 0, n_suppressed: 0 }
    }

    /// Takes one record from the budget. Returns `Some(n)` if it may be written, where `n` records before it were suppressed.
    #[inline(always)]
    pub const fn take(&mut self, now: Nanos) -> Option<u32> {
        if now.0.wrapping_sub(self.window_start.0) >= Self::WINDOW_NS {
            self.window_start = now;
            self.n_written = 0;
        }
        if self.n_written >= Self::PER_WINDOW {
            self.n_suppressed = self.n_suppressed.saturating_add(1);
            return None;
        }
        self.n_written += 1;
        let n_suppressed = self.n_suppressed;
        self.n_suppressed = 0;
        Some(n_suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_refills_and_counts_suppressed_records() {
        let mut budget = EventBudget::new(Nanos(0));
        for _ in 0..EventBudget::PER_WINDOW {
            assert_eq!(budget.take(Nanos(1)), Some(0));
        }
        assert_eq!(budget.take(Nanos(2)), None);
        assert_eq!(budget.take(Nanos(3)), None);
        assert_eq!(budget.take(Nanos(EventBudget::WINDOW_NS)), Some(2));
    }
}
