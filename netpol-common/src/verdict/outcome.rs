//! A verdict and all that follows from it.

use crate::ids::{Direction, IfIndex, RuleId};
use crate::reason::{PassReason, Verdict};

/// A verdict and all that follows from it.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What happens.
    pub verdict: Verdict,
    /// The rule that decided, if one did.
    pub rule: RuleId,
    /// The packet's new mark.
    pub mark: u32,
    /// The packet's new deferred flow handle.
    pub flow_handle: u16,
    /// The endpoint whose policy decided: not the hook's own one for a deferred egress verdict.
    pub ifindex: IfIndex,
    /// The direction as that endpoint sees it.
    pub direction: Direction,
    /// The endpoint whose deferred egress only passes because it is audited, if that is not the `verdict` anyway; 0 for
    /// none.
    pub audited_sender: IfIndex,
}

impl Outcome {
    /// Turns into what is to be told besides the verdict: that the sender's egress only passes because it is audited.
    /// False if there is nothing of that kind.
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
