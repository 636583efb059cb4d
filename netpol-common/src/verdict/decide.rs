//! The questions of each hook, in their order.

use super::deferred::{finish_deferred, is_hairpin, is_never_finished, settle};
use super::hook_context::HookContext;
use super::judge::judge;
use super::known::{Shortcut, follow_known};
use super::outcome::Outcome;
use super::policy::unless_isolated;
use super::spoofing::{is_spoofed, judge_arp};
use super::view::{Ruling, View};
use crate::ids::{Direction, Epoch, Hook, IfIndex, RuleId};
use crate::keys::{AllowSlots, EndpointValue};
use crate::maps::PolicyMaps;
use crate::packet::{Frame, Packet, Parsed};
use crate::reason::{DropReason, PassReason, Verdict};

/// Decides about one frame, and notes in `maps` what later packets need. `see` is asked for the context more than once: what is
/// asked again costs no stack. `packet` is scratch space that afterwards holds what was read from the frame; nothing is read of one
/// that leaves the node with nothing to finish.
///
/// This is the only place where packets are judged: in the kernel, in simulations and in tests.
#[inline(always)]
pub fn decide<M: PolicyMaps, B: Frame + ?Sized>(
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
fn at_uplink<M: PolicyMaps, B: Frame + ?Sized>(
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
fn at_pod<M: PolicyMaps, B: Frame + ?Sized>(
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
