//! The view that one endpoint has of a packet, and the ruling on it.

use super::hook_context::HookContext;
use crate::ids::{Direction, Epoch, IfIndex, Nanos, RuleId};
use crate::keys::{AllowSlots, EndpointValue, FlowKey};
use crate::reason::{DropReason, PassReason, Verdict};

/// A verdict with the rule behind it.
#[derive(Clone, Copy)]
pub(super) struct Ruling {
    pub(super) verdict: Verdict,
    pub(super) rule: RuleId,
    /// The new [`HookContext::flow_handle`] of a deferred packet.
    pub(super) flow_handle: u16,
}

impl Ruling {
    #[inline(always)]
    pub(super) const fn pass(reason: PassReason) -> Self {
        Self::new(Verdict::Pass(reason), RuleId::NONE)
    }

    #[inline(always)]
    pub(super) const fn drop(reason: DropReason) -> Self {
        Self::new(Verdict::Drop(reason), RuleId::NONE)
    }

    #[inline(always)]
    pub(super) const fn new(verdict: Verdict, rule: RuleId) -> Self {
        Self { verdict, rule, flow_handle: 0 }
    }
}

/// A verdict with its rule, as the number that a BPF function returns: the rule in the lower half, above it the flow handle, then the number of the
/// reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruled(pub u64);

impl Ruled {
    #[inline(always)]
    pub(super) const fn of(ruling: Ruling) -> Self {
        let reason = match ruling.verdict {
            Verdict::Pass(reason) => reason as u64,
            Verdict::Drop(reason) => reason as u64,
        };
        Self(reason << 48 | (ruling.flow_handle as u64) << 32 | ruling.rule.0 as u64)
    }

    /// The ruling. A number that is no reason drops.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the parts of the number")]
    pub(super) fn ruling(self) -> Ruling {
        let Self(number) = self;
        let reason = (number >> 48) as u8;
        let verdict = if reason < DropReason::NotAllowed as u8 {
            PassReason::try_from(reason).map(Verdict::Pass)
        } else {
            DropReason::try_from(reason).map(Verdict::Drop)
        };
        Ruling {
            verdict: verdict.unwrap_or(Verdict::Drop(DropReason::NotAllowed)),
            rule: RuleId(number as u32),
            flow_handle: (number >> 32) as u16,
        }
    }
}

/// A packet as one endpoint has to judge it. Without padding, because the kernel passes it to a BPF function as memory, which has to be
/// initialized.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct View {
    pub(super) now: Nanos,
    pub(super) epoch: Epoch,
    pub(super) ifindex: IfIndex,
    pub(super) slots: AllowSlots,
    pub(super) endpoint: EndpointValue,
    pub(super) direction: Direction,
    /// [`FlowKey::stage`].
    pub(super) stage: u8,
    /// The fast path has found that the packet belongs to no flow.
    pub(super) has_no_flow: bool,
    /// The reason why policy does not apply to this packet, if it does not.
    pub(super) exempt: Option<PassReason>,
}

const _: () = assert!(size_of::<View>() == 32);

impl View {
    /// The view of the endpoint of the hook's device.
    #[inline(always)]
    pub(super) const fn of_hook(
        context: &HookContext,
        (endpoint, slots): (EndpointValue, AllowSlots),
        direction: Direction,
        epoch: Epoch,
    ) -> Self {
        Self {
            ifindex: context.ifindex,
            endpoint,
            slots,
            direction,
            stage: FlowKey::AT_POD,
            has_no_flow: false,
            exempt: None,
            epoch,
            now: context.now,
        }
    }
}
