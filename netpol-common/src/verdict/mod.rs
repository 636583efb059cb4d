//! The verdict: what happens to a packet, and why.
//!
//! In: a frame, where it was seen, and map look-ups. Out: an [`Outcome`]. The order of the questions is the
//! order of the functions: here what depends on the hook, in `judge` what depends on one endpoint's view, in
//! `policy` what its rules say, in `reason` the words for the answers.
//!
//! A BPF program has 512 bytes of stack, counted over the longest chain of calls in steps of 32. So the longer functions
//! are not inlined: those that are called one after the other then use the same stack.

mod judge;
mod known;
mod policy;
mod reason;

use crate::ids::{Direction, Epoch, Hook, IfIndex, Nanos, RuleId};
use crate::keys::{EndpointValue, FlowKey};
use crate::maps::{AllowSlots, PolicyMaps};
use crate::packet::{Packet, PacketBytes, Parsed};
use judge::{Ruling, View, is_spoofed, judge, judge_arp, unless_isolated};
use known::{Shortcut, follow_known};
use policy::settle;

pub use reason::{DropReason, PassReason, Verdict};

/// Where and when a packet was seen.
#[derive(Clone, Copy, Debug)]
pub struct HookContext {
    /// The hook.
    pub hook: Hook,
    /// The hook's device.
    pub ifindex: IfIndex,
    /// The device through which the packet came to this node; 0 if the node itself made it
    /// (`__sk_buff.ingress_ifindex`).
    pub ingress_ifindex: u32,
    /// A socket of this node is attached to the packet (`__sk_buff.sk`).
    pub has_socket: bool,
    /// The frame carries a VLAN tag (`__sk_buff.vlan_present`).
    pub is_tagged: bool,
    /// The packet mark.
    pub mark: u32,
    /// The bits of the mark that carry an egress mark: 12 adjacent ones.
    pub mark_mask: u32,
    /// Which connection of the egress mark's owner a deferred packet is of, as far as it tells (`__sk_buff.tc_index`, which
    /// like the mark stays with the packet); 0 for none.
    pub flow_handle: u16,
    /// Coarse monotonic time.
    pub now: Nanos,
}

impl HookContext {
    /// What an egress mark is multiplied by to stand in the mask's bits: BPF has no instruction that counts zeros.
    #[inline(always)]
    const fn mark_unit(&self) -> u32 {
        self.mark_mask & self.mark_mask.wrapping_neg()
    }

    #[inline(always)]
    const fn egress_mark(&self) -> u16 {
        let [.., hi, lo] = match (self.mark & self.mark_mask).checked_div(self.mark_unit()) {
            Some(egress_mark) => egress_mark.to_be_bytes(),
            None => [0; 4],
        };
        u16::from_be_bytes([hi, lo])
    }

    #[inline(always)]
    const fn mark_with(&self, egress_mark: u16) -> u32 {
        let [hi, lo] = egress_mark.to_be_bytes();
        let bits = u32::from_be_bytes([0, 0, hi, lo]).wrapping_mul(self.mark_unit());
        (self.mark & !self.mark_mask) | (bits & self.mark_mask)
    }
}

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

/// Decides about one frame, and notes in `maps` what later packets need. `see` is asked for the sighting more than once: what is
/// asked again costs no stack. `packet` is scratch space that afterwards holds what was read from the frame; nothing is read of one
/// that leaves the node with nothing to finish.
///
/// This is the only place where packets are judged: in the kernel, in simulations and in tests.
#[inline(always)]
pub fn decide<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    see: impl Fn() -> HookContext,
    packet: &mut Packet,
) -> Outcome {
    match see().hook {
        Hook::PodEgress => at_pod(maps, bytes, see, Direction::Egress, packet),
        Hook::PodIngress => at_pod(maps, bytes, see, Direction::Ingress, packet),
        Hook::UplinkEgress => at_uplink(maps, bytes, &see(), packet),
    }
}

/// A packet leaves the node: finishes a deferred egress verdict.
#[inline(always)]
fn at_uplink<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    seen: &HookContext,
    packet: &mut Packet,
) -> Outcome {
    let mut outcome = Outcome {
        verdict: Verdict::Pass(PassReason::NoEgressMark),
        rule: RuleId::NONE,
        mark: seen.mark,
        flow_handle: seen.flow_handle,
        ifindex: seen.ifindex,
        direction: Direction::Egress,
        audited_sender: IfIndex(0),
    };
    if seen.egress_mark() == 0 && seen.flow_handle == 0 {
        return outcome;
    }
    outcome.flow_handle = 0;
    outcome.mark = seen.mark_with(0);
    let parsed = bytes.parse(packet);
    if seen.egress_mark() == 0 {
        if matches!(parsed, Parsed::Ip) {
            settle(maps, seen, packet, IfIndex(0), outcome.verdict);
        }
        return outcome;
    }
    let ruling = match parsed {
        Parsed::Ip => {
            let blocked = (EndpointValue::blocked(), AllowSlots(0));
            let mut view = View::of_hook(seen, blocked, Direction::Egress, Epoch(0));
            let ruling = finish_deferred(maps, bytes, seen, packet, &mut view);
            outcome.ifindex = view.ifindex;
            ruling
        }
        Parsed::Arp => Ruling::pass(PassReason::Arp),
        Parsed::NotIp => Ruling::drop(DropReason::NotIp),
        Parsed::Malformed(reason) => Ruling::drop(reason),
    };
    outcome.verdict = ruling.verdict;
    outcome.rule = ruling.rule;
    outcome
}

/// A packet arrives at or comes from a pod.
#[inline(always)]
fn at_pod<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    see: impl Fn() -> HookContext,
    direction: Direction,
    packet: &mut Packet,
) -> Outcome {
    let shortcut = follow_known(maps, bytes, &see(), direction, packet);
    if let Shortcut::Done(outcome) = shortcut {
        return outcome;
    }
    let seen = &see();
    let mut outcome = Outcome {
        verdict: Verdict::Drop(DropReason::UnknownEndpoint),
        rule: RuleId::NONE,
        mark: seen.mark_with(0),
        flow_handle: 0,
        ifindex: seen.ifindex,
        direction,
        audited_sender: IfIndex(0),
    };
    let Some(endpoint) = maps.endpoint(seen.ifindex) else { return outcome };
    if endpoint.0.state != EndpointValue::READY {
        outcome.verdict = Verdict::Drop(DropReason::Blocked);
        return outcome;
    }
    // Read first: what is decided with a state that changes meanwhile counts as old.
    let epoch = maps.epoch();
    let mut view = View::of_hook(seen, endpoint, direction, epoch);
    view.is_unknown = matches!(shortcut, Shortcut::Unknown);
    let parsed = match shortcut {
        Shortcut::Unknown | Shortcut::Read => Parsed::Ip,
        Shortcut::Done(_) | Shortcut::None => bytes.parse(packet),
    };
    let ruling = match parsed {
        Parsed::Arp => judge_arp(maps, &view, &packet.src),
        Parsed::NotIp => unless_isolated(&view, DropReason::NotIp),
        Parsed::Malformed(reason) => unless_isolated(&view, reason),
        Parsed::Ip if seen.is_tagged && view.endpoint.is_isolated(direction) => {
            unless_isolated(&view, DropReason::NotIp)
        }
        Parsed::Ip => match direction {
            Direction::Egress => {
                if is_spoofed(maps, bytes, &view, packet) {
                    Ruling::drop(DropReason::Spoofed)
                } else {
                    judge(maps, bytes, &view, packet)
                }
            }
            Direction::Ingress => {
                let is_hairpin = is_hairpin(maps, seen);
                if seen.egress_mark() != 0 && !is_hairpin {
                    // The sender's policy first. One view after the other in the same place: BPF has little stack.
                    let ruling = finish_deferred(maps, bytes, seen, packet, &mut view);
                    if !ruling.verdict.is_pass() {
                        outcome.ifindex = view.ifindex;
                        outcome.direction = Direction::Egress;
                        outcome.verdict = ruling.verdict;
                        outcome.rule = ruling.rule;
                        return outcome;
                    }
                    if matches!(ruling.verdict, Verdict::Pass(PassReason::Audited)) {
                        outcome.audited_sender = view.ifindex;
                    }
                    // Asked again: what is kept for so long costs stack.
                    let Some(endpoint) = maps.endpoint(seen.ifindex) else { return outcome };
                    view = View::of_hook(seen, endpoint, direction, epoch);
                } else if seen.flow_handle != 0 {
                    // Of a pod that nothing isolates yet.
                    settle(maps, seen, packet, IfIndex(0), Verdict::Pass(PassReason::NotIsolated));
                }
                if is_hairpin {
                    view.exempt = Some(PassReason::Hairpin);
                } else if seen.ingress_ifindex == 0 && seen.has_socket {
                    view.exempt = Some(PassReason::OwnNode);
                }
                judge(maps, bytes, &view, packet)
            }
        },
    };
    outcome.verdict = ruling.verdict;
    outcome.rule = ruling.rule;
    if matches!(ruling.verdict, Verdict::Pass(PassReason::Deferred)) {
        outcome.mark = seen.mark_with(view.endpoint.egress_mark);
        outcome.flow_handle = ruling.flow_handle;
        if is_never_finished(&view) {
            outcome.verdict = Verdict::Drop(DropReason::UnknownEgressMark);
        }
    }
    outcome
}

/// Whether nobody would finish a deferred verdict.
#[inline(always)]
fn is_never_finished(view: &View) -> bool {
    let View { endpoint, direction, .. } = view;
    let is_enforced = endpoint.is_isolated(*direction) && !endpoint.is_audited(*direction);
    endpoint.egress_mark == 0 && is_enforced
}

/// Whether a pod has sent this packet to itself, through a Service. Over a routed veth, or a bridge whose packets
/// netfilter sees, the pod's own device is the one by which it came. On another bridge that is the bridge, and only
/// the egress mark tells.
#[inline(always)]
fn is_hairpin<M: PolicyMaps>(maps: &M, seen: &HookContext) -> bool {
    seen.ingress_ifindex == seen.ifindex.0
        || (seen.egress_mark() != 0
            && maps.egress_mark_owner(seen.egress_mark()) == Some(seen.ifindex))
}

/// The egress verdict of the pod that sent a deferred packet, now that the real destination is known.
/// Leaves that pod's view in `view`.
#[inline(always)]
fn finish_deferred<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    seen: &HookContext,
    packet: &Packet,
    view: &mut View,
) -> Ruling {
    let Some(ifindex) = maps.egress_mark_owner(seen.egress_mark()) else {
        return Ruling::drop(DropReason::UnknownEgressMark);
    };
    let Some((endpoint, places)) = maps.endpoint(ifindex) else {
        return Ruling::drop(DropReason::UnknownEgressMark);
    };
    // Its policy has gone since the packet was let go, and with it the isolation that the packet is judged by.
    if endpoint.state != EndpointValue::READY {
        return Ruling::drop(DropReason::Blocked);
    }
    *view = View {
        ifindex,
        endpoint,
        places,
        direction: Direction::Egress,
        stage: FlowKey::AFTER_NAT,
        is_unknown: false,
        exempt: None,
        epoch: maps.epoch(),
        now: seen.now,
    };
    let ruling = if endpoint.is_isolated(Direction::Egress) {
        judge(maps, bytes, view, packet)
    } else {
        // It had an egress mark only to be known again by itself.
        Ruling::pass(PassReason::NotIsolated)
    };
    if seen.flow_handle != 0 {
        settle(maps, seen, packet, ifindex, ruling.verdict);
    }
    ruling
}

#[cfg(test)]
mod tests;
