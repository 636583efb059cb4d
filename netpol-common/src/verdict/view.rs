//! One endpoint's view of a packet, and what was ruled on it.

use super::hook_context::HookContext;
use crate::ids::{Direction, Epoch, IfIndex, Nanos, RuleId};
use crate::keys::{AllowSlots, EndpointValue, FlowKey};
use crate::reason::{DropReason, PassReason, Verdict};

/// A verdict with the rule behind it.
#[derive(Clone, Copy)]
pub(super) struct Ruling {
    pub(super) verdict: Verdict,
    pub(super) rule: RuleId,
    /// [`HookContext::flow_handle`] of a deferred packet.
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

/// One endpoint's view of a packet.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub(super) ifindex: IfIndex,
    pub(super) endpoint: EndpointValue,
    pub(super) places: AllowSlots,
    pub(super) direction: Direction,
    /// [`FlowKey::stage`].
    pub(super) stage: u8,
    /// The packet's connection has been looked for, and is not there.
    pub(super) is_unknown: bool,
    /// Policy does not apply to this packet, for this reason.
    pub(super) exempt: Option<PassReason>,
    pub(super) epoch: Epoch,
    pub(super) now: Nanos,
}

impl View {
    /// The view of the hook's own endpoint.
    #[inline(always)]
    pub(super) const fn of_hook(
        seen: &HookContext,
        (endpoint, places): (EndpointValue, AllowSlots),
        direction: Direction,
        epoch: Epoch,
    ) -> Self {
        Self {
            ifindex: seen.ifindex,
            endpoint,
            places,
            direction,
            stage: FlowKey::AT_POD,
            is_unknown: false,
            exempt: None,
            epoch,
            now: seen.now,
        }
    }
}
