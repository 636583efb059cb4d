//! The outcome of a decision.

use crate::ids::{Direction, IfIndex, RuleId};
use crate::reason::{PassReason, Verdict};

/// The target of a packet that is redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The hook of a pod's interface, which judges the packet.
    Hook,
    /// The pod behind an interface. The verdict is that of both pods.
    Pod,
    /// The device that leads to the pods of other nodes.
    Overlay,
}

/// A verdict, and what has to be done to the packet.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Pass or drop.
    pub verdict: Verdict,
    /// The rule that decided, if one did.
    pub rule: RuleId,
    /// The packet's new mark.
    pub mark: u32,
    /// The packet's new deferred flow handle.
    pub flow_handle: u16,
    /// The endpoint whose policy decided. For a deferred egress verdict it is not the hook's own one.
    pub ifindex: IfIndex,
    /// The direction of the packet for that endpoint.
    pub direction: Direction,
    /// The endpoint whose deferred egress passes only because of audit mode, if `verdict` does not say so; 0 for none.
    pub audited_sender: IfIndex,
    /// The interface to which a packet that passes is redirected; 0 for the usual way.
    pub redirect: IfIndex,
    /// What is there; [`Target::Hook`] if the packet is not redirected.
    pub target: Target,
}

impl Outcome {
    /// Replaces the verdict by the second one to report: that the sender's egress passes only because of audit mode. Returns false
    /// if there is none.
    #[inline(always)]
    pub const fn turn_to_audited_sender(&mut self) -> bool {
        if self.audited_sender.0 == 0 {
            return false;
        }
        self.verdict = Verdict::Pass(PassReason::Audited);
        self.rule = RuleId::NONE;
        self.ifindex = self.audited_sender;
        self.direction = Direction::Egress;
        self.audited_sender = IfIndex(0);
        true
    }
}
