//! The decision about a frame, by the hook at which it is.

use super::deferred::{finish_flow, finish_verdict, is_hairpin};
use super::denials::{Asked, audited_to_itself, denied_to_itself, ruling};
use super::fast_path::{FastPath, fast_path};
use super::hook_context::HookContext;
use super::judge::judge;
use super::outcome::{Outcome, Target};
use super::outside::at_uplink_ingress;
use super::policy::is_never_finished;
use super::short_cut;
use super::spoofing::{foreign_mac, has_foreign_mac, is_spoofed, judge_arp, judge_opaque};
use super::view::{Ruling, View};
use crate::ids::{Direction, Epoch, Hook, IfIndex, Protocol, RuleId};
use crate::keys::{AllowSlots, EndpointValue};
use crate::maps::PolicyMaps;
use crate::packet::{Frame, Packet, Parsed};
use crate::reason::{DropReason, PassReason, Verdict};

/// Decides about one frame, and stores in `maps` what later packets need.
///
/// `context` is called more than once, because a value that is made again needs no stack. `packet` is scratch space. Afterwards it
/// holds the headers of the frame, unless the frame passes a device that is no pod's, and its verdict was not deferred.
///
/// This is the only place where packets are judged: in the kernel, in simulations and in tests.
#[inline(always)]
pub fn decide<M: PolicyMaps, B: Frame + ?Sized>(
    maps: &M,
    bytes: &B,
    context: impl Fn() -> HookContext,
    packet: &mut Packet,
) -> Outcome {
    match context().hook {
        Hook::PodEgress => at_pod(maps, bytes, context, Direction::Egress, packet),
        Hook::PodIngress => at_pod(maps, bytes, context, Direction::Ingress, packet),
        Hook::UplinkEgress => at_uplink(maps, bytes, &context(), packet),
        Hook::UplinkIngress => at_uplink_ingress(maps, bytes, &context(), packet),
    }
}

/// A packet leaves the node: finishes a deferred egress verdict.
#[inline(always)]
fn at_uplink<M: PolicyMaps, B: Frame + ?Sized>(
    maps: &M,
    bytes: &B,
    context: &HookContext,
    packet: &mut Packet,
) -> Outcome {
    let mut outcome = Outcome {
        verdict: Verdict::Pass(PassReason::NoEgressMark),
        rule: RuleId::NONE,
        mark: context.mark,
        flow_handle: context.flow_handle,
        ifindex: context.ifindex,
        direction: Direction::Egress,
        audited_sender: IfIndex(0),
        redirect: IfIndex(0),
        target: Target::Hook,
    };
    if context.egress_mark() == 0 && context.flow_handle == 0 {
        return outcome;
    }
    outcome.flow_handle = 0;
    outcome.mark = context.mark_with(0);
    let parsed = bytes.parse(packet);
    if matches!(parsed, Parsed::Ip) && is_to_tunnel(maps, packet) {
        // Whether or not the pod is isolated: a Service has led it here.
        outcome.verdict = Verdict::Drop(DropReason::Tunnel);
        outcome.ifindex = maps.egress_mark_owner(context.egress_mark()).unwrap_or(context.ifindex);
        finish_flow(maps, context, packet, IfIndex(0), outcome.verdict);
        return outcome;
    }
    if context.egress_mark() == 0 {
        if matches!(parsed, Parsed::Ip) {
            finish_flow(maps, context, packet, IfIndex(0), outcome.verdict);
        }
        return outcome;
    }
    let ruling = match parsed {
        Parsed::Ip => {
            let blocked = (EndpointValue::blocked(), AllowSlots(0));
            let mut view = View::of_hook(context, blocked, Direction::Egress, Epoch(0));
            let ruling = finish_verdict(maps, bytes, context, packet, &mut view);
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

/// A packet to or from a pod.
#[expect(clippy::too_many_lines, reason = "a smaller function costs the verifier twice as much")]
#[inline(always)]
fn at_pod<M: PolicyMaps, B: Frame + ?Sized>(
    maps: &M,
    bytes: &B,
    context: impl Fn() -> HookContext,
    direction: Direction,
    packet: &mut Packet,
) -> Outcome {
    let fast = fast_path(maps, bytes, &context(), direction, packet);
    if let FastPath::Done(outcome) = fast {
        return outcome;
    }
    let is_egress = matches!(direction, Direction::Egress);
    let context = &context();
    let mut outcome = Outcome {
        verdict: Verdict::Drop(DropReason::UnknownEndpoint),
        rule: RuleId::NONE,
        mark: context.mark_with(0),
        flow_handle: 0,
        ifindex: context.ifindex,
        direction,
        audited_sender: IfIndex(0),
        redirect: IfIndex(0),
        target: Target::Hook,
    };
    // The epoch is read before the policy. If the policy changes in between, the decision counts as one of the old epoch.
    let epoch = maps.epoch();
    let Some((value, slots, mac)) = maps.endpoint(context.ifindex) else { return outcome };
    if value.state != EndpointValue::READY {
        outcome.verdict = Verdict::Drop(DropReason::Blocked);
        return outcome;
    }
    let mut view = View::of_hook(context, (value, slots), direction, epoch);
    if matches!(fast, FastPath::NoFlow) {
        view = view.without_flow();
    }
    let parsed = match fast {
        FastPath::NoFlow | FastPath::Parsed => Parsed::Ip,
        FastPath::Done(_) | FastPath::NotTaken => bytes.parse(packet),
    };
    if is_egress {
        // The fast path has parsed only packets that may take the short cut.
        let is_plain = matches!(fast, FastPath::NoFlow | FastPath::Parsed);
        let takes_short_cut = view.endpoint.takes_short_cut();
        if takes_short_cut && is_plain && short_cut::can_begin(packet, &view) {
            let to = maps.receiver(packet, view.ifindex, view.now);
            view = view.redirectable(short_cut::addressed(maps, bytes, packet, to));
        } else if (takes_short_cut && (is_plain || packet.is_icmp_error()))
            || short_cut::ends_connection(packet)
        {
            view = view.redirectable(IfIndex(0));
        }
    }
    if !view.endpoint.forwards() && has_foreign_mac(bytes, mac, direction) {
        outcome.verdict = Verdict::Drop(foreign_mac(direction));
        return outcome;
    }
    if !is_egress && context.is_redirected() {
        view = view.redirectable(IfIndex(context.ingress_ifindex));
    }
    let mut is_reported = false;
    let ruling = match parsed {
        Parsed::NotIp => judge_opaque(&view, DropReason::NotIp),
        Parsed::Malformed(reason) => judge_opaque(&view, reason),
        Parsed::Arp | Parsed::Ip if context.is_tagged => judge_opaque(&view, DropReason::NotIp),
        Parsed::Arp => judge_arp(maps, bytes, &view, &packet.src),
        Parsed::Ip if is_egress && is_spoofed(maps, bytes, &view, packet) => {
            Ruling::drop(DropReason::Spoofed)
        }
        Parsed::Ip if is_egress && is_to_tunnel(maps, packet) => Ruling::drop(DropReason::Tunnel),
        Parsed::Ip
            if packet.has_link_message_type() && bytes.is_link_message(direction, packet) =>
        {
            Ruling::pass(PassReason::NeighbourDiscovery)
        }
        Parsed::Ip
            if !is_egress
                && view.endpoint.denies != 0
                && let Some(ruling) = denied_to_itself(maps, context, packet) =>
        {
            if context.flow_handle != 0 {
                finish_flow(maps, context, packet, IfIndex(0), ruling.verdict);
            }
            ruling
        }
        Parsed::Ip => match direction {
            Direction::Egress => {
                let ruled = judge(maps, bytes, &view, packet);
                outcome.redirect = short_cut::addressed(maps, bytes, packet, ruled.redirect());
                let is_asked =
                    ruled.redirect().0 != 0 && short_cut::is_inner(packet, &view, outcome.redirect);
                if is_asked && !maps.keeps_redirect(packet, outcome.redirect, view.ifindex) {
                    outcome.redirect = IfIndex(0);
                }
                let ruling = ruled.ruling();
                let is_deferred = matches!(ruling.verdict, Verdict::Pass(PassReason::Deferred));
                let at_node = if is_deferred && view.endpoint.judges_node() {
                    at_own_node(maps, &view, packet)
                } else {
                    None
                };
                match at_node {
                    // Reported and counted once for a connection.
                    Some(audited) if audited.verdict.is_pass() && ruled.is_first() => {
                        if audited.rule != RuleId::NONE {
                            maps.count_rule(audited.rule);
                        }
                        is_reported = true;
                        Ruling { rule: audited.rule, ..ruling }
                    }
                    Some(denied) if !denied.verdict.is_pass() => denied,
                    Some(_) | None => ruling,
                }
            }
            Direction::Ingress => {
                let is_hairpin = is_hairpin(
                    maps,
                    context.ifindex,
                    context.ingress_ifindex,
                    context.egress_mark(),
                );
                if context.egress_mark() != 0 && !is_hairpin {
                    // The sender's policy comes first. Both views use the same memory, because BPF has little stack.
                    let ruling = finish_verdict(maps, bytes, context, packet, &mut view);
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
                    // Looked up again, because keeping it until here would need stack. The epoch was read before that.
                    let Some((value, slots, _)) = maps.endpoint(context.ifindex) else {
                        return outcome;
                    };
                    view = View::of_hook(context, (value, slots), direction, view.epoch);
                } else if context.flow_handle != 0 && !context.is_redirected() {
                    // The sender is not isolated, but may be later.
                    let verdict = Verdict::Pass(PassReason::NotIsolated);
                    finish_flow(maps, context, packet, IfIndex(0), verdict);
                }
                if is_hairpin {
                    view = view.exempt_as_hairpin();
                } else if context.ingress_ifindex == 0 && context.has_socket {
                    view = view.exempt_as_own_node();
                }
                let ruling = judge(maps, bytes, &view, packet).ruling();
                // Only of a packet that begins a connection.
                if matches!(ruling.verdict, Verdict::Pass(PassReason::Hairpin)) {
                    audited_to_itself(maps, context, packet).unwrap_or(ruling)
                } else {
                    ruling
                }
            }
        },
    };
    outcome.verdict = ruling.verdict;
    outcome.rule = ruling.rule;
    if matches!(ruling.verdict, Verdict::Pass(PassReason::Deferred)) {
        outcome.mark = context.mark_with(view.endpoint.egress_mark);
        outcome.flow_handle = ruling.flow_handle;
        if is_never_finished(&view.endpoint, view.direction()) {
            outcome.verdict = Verdict::Drop(DropReason::UnknownEgressMark);
            outcome.rule = RuleId::NONE;
        } else if is_reported {
            // The mark stays, since the address may no longer be the node's.
            outcome.verdict = Verdict::Pass(PassReason::Audited);
        }
    }
    if is_egress && outcome.redirect.0 != 0 {
        outcome.target = short_cut::target(maps, packet, outcome.redirect, Target::Hook);
        if matches!(outcome.target, Target::Hook) {
            outcome.flow_handle = HookContext::REDIRECTED;
        }
    }
    outcome
}

/// The ruling on a packet to the own node, or to a Service with backends on its network, which passes no other hook. NetworkPolicies
/// allow it, unless the own node needs a rule as any other peer.
#[inline(always)]
fn at_own_node<M: PolicyMaps>(maps: &M, view: &View, packet: &Packet) -> Option<Ruling> {
    let asked = Asked::to_node(packet, view.endpoint);
    ruling(maps.denial_at_node(view.slots, &packet.dst, asked))
}

/// Whether the packet of a pod goes to a tunnel of a node.
#[inline(always)]
fn is_to_tunnel<M: PolicyMaps>(maps: &M, packet: &Packet) -> bool {
    packet.protocol.0 != Protocol::TCP.0
        && maps.is_tunnel(&packet.dst, packet.protocol, packet.dst_port)
}
