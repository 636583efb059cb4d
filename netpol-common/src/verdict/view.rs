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

/// A verdict with its rule, as the number that a BPF function returns: the rule in the lower half, above it 23 bits for the flow handle of
/// a deferred packet or for the interface to which another packet is redirected, a bit for the first packet of a connection, then the number
/// of the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruled(pub u64);

const BEGINS: u64 = 1 << (32 + IfIndex::REDIRECT_BITS);
const REASON_SHIFT: u32 = 33 + IfIndex::REDIRECT_BITS;

impl Ruled {
    #[inline(always)]
    pub(super) const fn of(ruling: Ruling) -> Self {
        let reason = match ruling.verdict {
            Verdict::Pass(reason) => reason as u64,
            Verdict::Drop(reason) => reason as u64,
        };
        Self(reason << REASON_SHIFT | (ruling.flow_handle as u64) << 32 | ruling.rule.0 as u64)
    }

    /// The ruling on a packet that passes and is not deferred, and that may be redirected to this interface; 0 for none.
    #[inline(always)]
    pub(super) const fn redirected(self, redirect: IfIndex) -> Self {
        Self(self.0 | (redirect.0 as u64) << 32)
    }

    /// The ruling on the first packet of a connection.
    #[inline(always)]
    pub(super) const fn beginning(self) -> Self {
        Self(self.0 | BEGINS)
    }

    /// Whether a rule decides about the first packet of a connection.
    #[inline(always)]
    pub(super) const fn begins(self) -> bool {
        self.is_first() && self.rule().0 != RuleId::NONE.0
    }

    /// Whether this is the ruling on the first packet of a connection.
    #[inline(always)]
    pub(super) const fn is_first(self) -> bool {
        self.0 & BEGINS != 0
    }

    /// The rule.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub(super) const fn rule(self) -> RuleId {
        RuleId(self.0 as u32)
    }

    /// Whether the verdict is deferred.
    #[inline(always)]
    const fn is_deferred(self) -> bool {
        self.0 >> REASON_SHIFT == PassReason::Deferred as u64
    }

    /// The interface to which the packet may be redirected, 0 for none.
    #[inline(always)]
    pub(super) const fn redirect(self) -> IfIndex {
        let redirect = (self.0 >> 32) as u32 & ((1 << IfIndex::REDIRECT_BITS) - 1);
        IfIndex(if self.is_deferred() { 0 } else { redirect })
    }

    /// The ruling. A number that is no reason drops.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the parts of the number")]
    pub(super) fn ruling(self) -> Ruling {
        let Self(number) = self;
        let reason = (number >> REASON_SHIFT) as u8;
        let verdict = if reason < DropReason::NotAllowed as u8 {
            PassReason::try_from(reason).map(Verdict::Pass)
        } else {
            DropReason::try_from(reason).map(Verdict::Drop)
        };
        Ruling {
            verdict: verdict.unwrap_or(Verdict::Drop(DropReason::NotAllowed)),
            rule: RuleId(number as u32),
            flow_handle: if self.is_deferred() { (number >> 32) as u16 } else { 0 },
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
    facts: Facts,
}

const _: () = assert!(size_of::<View>() == 32);

/// Facts about a packet in one word, because BPF has little stack: from the lowest bit on an interface ([`View::redirect`]), and then
/// the bits below.
#[derive(Clone, Copy)]
struct Facts(u32);

impl Facts {
    const REDIRECT: u32 = (1 << IfIndex::REDIRECT_BITS) - 1;
    const DIRECTION: u32 = 1 << 24;
    const STAGE: u32 = 1 << 25;
    const HAS_NO_FLOW: u32 = 1 << 26;
    const MAY_REDIRECT: u32 = 1 << 27;
    const FROM_OWN_NODE: u32 = 1 << 28;
    const IS_HAIRPIN: u32 = 1 << 29;

    #[inline(always)]
    const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }
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
        let facts = Facts(Facts::DIRECTION * direction.to_wire() as u32);
        Self { ifindex: context.ifindex, endpoint, slots, facts, epoch, now: context.now }
    }

    /// The same endpoint's view of the packet after Service translation.
    #[inline(always)]
    #[must_use]
    pub(super) const fn after_nat(mut self) -> Self {
        self.facts.0 |= Facts::STAGE;
        self
    }

    /// The same, of a packet to which policy does not apply, because it comes from the own node.
    #[inline(always)]
    #[must_use]
    pub(super) const fn exempt_as_own_node(mut self) -> Self {
        self.facts.0 |= Facts::FROM_OWN_NODE;
        self
    }

    /// The same, of a packet to which policy does not apply, because the pod sent it to itself.
    #[inline(always)]
    #[must_use]
    pub(super) const fn exempt_as_hairpin(mut self) -> Self {
        self.facts.0 |= Facts::IS_HAIRPIN;
        self
    }

    /// The same, after the fast path has found that the packet belongs to no flow.
    #[inline(always)]
    #[must_use]
    pub(super) const fn without_flow(mut self) -> Self {
        self.facts.0 |= Facts::HAS_NO_FLOW;
        self
    }

    /// The same, of a packet that may be redirected. If it begins a connection, then the packets of the connection are redirected to
    /// this interface; 0 for none.
    #[inline(always)]
    #[must_use]
    pub(super) const fn redirectable(mut self, to: IfIndex) -> Self {
        self.facts.0 |= Facts::MAY_REDIRECT | (to.0 & Facts::REDIRECT);
        self
    }

    /// The direction of the packet for the endpoint.
    #[inline(always)]
    pub(super) const fn direction(&self) -> Direction {
        if self.facts.has(Facts::DIRECTION) { Direction::Egress } else { Direction::Ingress }
    }

    /// [`FlowKey::stage`].
    #[inline(always)]
    pub(super) const fn stage(&self) -> u8 {
        if self.facts.has(Facts::STAGE) { FlowKey::AFTER_NAT } else { FlowKey::AT_POD }
    }

    /// Whether the fast path has found that the packet belongs to no flow.
    #[inline(always)]
    pub(super) const fn has_no_flow(&self) -> bool {
        self.facts.has(Facts::HAS_NO_FLOW)
    }

    /// The reason why policy does not apply to this packet, if it does not.
    #[inline(always)]
    pub(super) const fn exempt(&self) -> Option<PassReason> {
        if self.facts.has(Facts::IS_HAIRPIN) {
            Some(PassReason::Hairpin)
        } else if self.facts.has(Facts::FROM_OWN_NODE) {
            Some(PassReason::OwnNode)
        } else {
            None
        }
    }

    /// Whether the packet may be redirected. One that may not ends the redirection of its connection.
    #[inline(always)]
    pub(super) const fn may_redirect(&self) -> bool {
        self.facts.has(Facts::MAY_REDIRECT)
    }

    /// The interface to which the packets of a connection are redirected that begins with this packet; 0 for none.
    #[inline(always)]
    pub(super) const fn redirect(&self) -> IfIndex {
        IfIndex(self.facts.0 & Facts::REDIRECT)
    }
}
