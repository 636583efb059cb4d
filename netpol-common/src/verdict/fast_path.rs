//! The fast path: the packet belongs to an established flow, about which nothing has to be decided or written.

use super::hook_context::HookContext;
use super::outcome::{Outcome, Target};
use super::short_cut;
use super::spoofing::{has_foreign_mac, own_mac};
use crate::flow::{self, Step};
use crate::identities::family;
use crate::ids::{Direction, IfIndex};
use crate::keys::FlowKey;
use crate::maps::{CurrentFlow, PolicyMaps};
use crate::packet::{Packet, PacketBytes, parse_plain};
use crate::reason::{PassReason, Verdict};

/// The result of the fast path.
pub(super) enum FastPath {
    /// The packet passes.
    Done(Outcome),
    /// The packet is parsed, and there is no flow that it belongs to.
    NoFlow,
    /// The packet is parsed.
    Parsed,
    /// The packet is not parsed.
    NotTaken,
}

/// Passes a packet whose flow was decided in this epoch, if no deferred verdict has to be finished. A packet from the pod must have
/// the source address that the pod used on this flow before, because the slow path found that address to be the pod's own in this
/// epoch.
///
/// ENDPOINTS is not looked up, because every change of an endpoint is followed by a new epoch. The slow path passes every packet that
/// this path passes, except while a change is under way.
#[inline(always)]
pub(super) fn fast_path<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    context: &HookContext,
    direction: Direction,
    packet: &mut Packet,
) -> FastPath {
    let is_egress = matches!(direction, Direction::Egress);
    // The deferred verdict of the sender has to be finished first.
    let has_handle = context.flow_handle != 0 && !context.is_redirected();
    let is_deferred = !is_egress && (context.mark & context.mark_mask != 0 || has_handle);
    if context.is_tagged || is_deferred {
        return FastPath::NotTaken;
    }
    let Some(plain) = parse_plain(bytes) else { return FastPath::NotTaken };
    *packet = plain.packet();
    // The unspecified address never belongs to an endpoint, and means "unknown" in a flow.
    let has_no_sender = is_egress && packet.src.is_unspecified();
    if has_no_sender || flow::tcp::opens(packet.tcp_flags) {
        return FastPath::Parsed;
    }
    let (remote, ports) =
        if is_egress { (plain.dst, plain.ports) } else { (plain.src, plain.ports.rotate_left(16)) };
    let key = FlowKey::new(context.ifindex, remote, ports, plain.protocol, FlowKey::AT_POD);
    let epoch = maps.epoch();
    let step = Step { now: context.now, epoch, direction, tcp_flags: packet.tcp_flags };
    match maps.current_flow(&key, is_egress.then_some(&packet.src), &step) {
        CurrentFlow::Yes { .. }
            if has_foreign_mac(bytes, own_mac(maps, context.ifindex), direction) =>
        {
            FastPath::Parsed
        }
        // A packet of a redirected flow that arrives at the pod by the usual way ends the redirection.
        CurrentFlow::Yes { redirect, .. }
            if redirect.0 != 0 && !is_egress && !context.is_redirected() =>
        {
            FastPath::Parsed
        }
        CurrentFlow::Yes { redirect, .. }
            if redirect.0 != 0
                && is_egress
                && !passes_receiver(maps, bytes, packet, context, redirect) =>
        {
            FastPath::Parsed
        }
        CurrentFlow::Yes { rule, redirect } => FastPath::Done(Outcome {
            verdict: Verdict::Pass(PassReason::Flow),
            rule,
            mark: context.mark_with(0),
            flow_handle: 0,
            ifindex: context.ifindex,
            direction,
            audited_sender: IfIndex(0),
            redirect: if is_egress { redirect } else { IfIndex(0) },
            target: if is_egress && redirect.0 != 0 {
                short_cut::target(maps, packet, redirect, Target::Pod)
            } else {
                Target::Hook
            },
        }),
        CurrentFlow::No => FastPath::Parsed,
        CurrentFlow::Absent => FastPath::NoFlow,
    }
}

/// Whether the pod to which a packet is redirected passes it by a current flow of its own. A pod of another node is asked there.
#[inline(always)]
fn passes_receiver<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    packet: &Packet,
    context: &HookContext,
    receiver: IfIndex,
) -> bool {
    let overlay = maps.overlay(family(&packet.dst));
    if receiver == overlay.ifindex {
        return short_cut::is_routable(bytes, packet, overlay.gateway());
    }
    let mac = maps.receiver_mac(packet, receiver, context.ifindex, context.now);
    short_cut::is_addressed(bytes, mac)
}
