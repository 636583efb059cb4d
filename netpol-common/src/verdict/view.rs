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

/// A packet as one endpoint has to judge it.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub(super) ifindex: IfIndex,
    pub(super) endpoint: EndpointValue,
    pub(super) slots: AllowSlots,
    pub(super) direction: Direction,
    /// [`FlowKey::stage`].
    pub(super) stage: u8,
    /// The fast path has found that the packet belongs to no flow.
    pub(super) has_no_flow: bool,
    /// The reason why policy does not apply to this packet, if it does not.
    pub(super) exempt: Option<PassReason>,
    pub(super) epoch: Epoch,
    pub(super) now: Nanos,
}

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
