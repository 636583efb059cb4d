//! The end of deferred verdicts: the packet is traced to its sender, and the verdict is stored in the sender's flow.

use super::hook_context::HookContext;
use super::judge::judge;
use super::view::{Ruling, View};
use crate::ids::{Direction, IfIndex};
use crate::keys::{BackendValue, EndpointValue, FlowValue};
use crate::maps::{Local, PolicyMaps};
use crate::packet::{Fragment, Frame, Packet};
use crate::reason::{DropReason, PassReason, Verdict};

/// Whether a pod has sent this packet to itself, through a Service. On a routed veth, or on a bridge whose packets netfilter
/// handles, the packet's ingress device is the pod's own device. On another bridge it is the bridge, and only the egress mark names
/// the pod.
#[inline(always)]
pub(super) fn is_hairpin<M: PolicyMaps>(
    maps: &M,
    ifindex: IfIndex,
    ingress_ifindex: u32,
    egress_mark: u16,
) -> bool {
    ingress_ifindex == ifindex.0
        || (egress_mark != 0 && maps.egress_mark_owner(egress_mark) == Some(ifindex))
}

/// The deferred egress verdict of the pod that sent the packet, whose real destination is known now. Replaces `view` by the view of
/// that pod.
#[inline(always)]
pub(super) fn finish_verdict<M: PolicyMaps, B: Frame + ?Sized>(
    maps: &M,
    bytes: &B,
    context: &HookContext,
    packet: &Packet,
    view: &mut View,
) -> Ruling {
    let Some(ifindex) = maps.egress_mark_owner(context.egress_mark()) else {
        return Ruling::drop(DropReason::UnknownEgressMark);
    };
    // Before the policy, as in `decide`.
    let epoch = maps.epoch();
    let Some((endpoint, slots, _)) = maps.endpoint(ifindex) else {
        return Ruling::drop(DropReason::UnknownEgressMark);
    };
    // Since the packet passed the first hook, the policy of the sender has been removed.
    if endpoint.state != EndpointValue::READY {
        return Ruling::drop(DropReason::Blocked);
    }
    *view = View::of_hook(context, (endpoint, slots), Direction::Egress, epoch).after_nat();
    view.ifindex = ifindex;
    let ruling = if endpoint.is_isolated(Direction::Egress) {
        judge(maps, bytes, view, packet).ruling()
    } else {
        // The pod has an egress mark only because it is isolated for ingress, see `is_hairpin`.
        Ruling::pass(PassReason::NotIsolated)
    };
    if context.flow_handle != 0 {
        finish_flow(maps, context, packet, ifindex, ruling.verdict);
    }
    ruling
}

/// Stores a deferred verdict and the backend in the flow before translation, as the sender has it. `sender` is 0 if the packet has
/// no egress mark.
#[inline(never)]
pub(super) fn finish_flow<M: PolicyMaps>(
    maps: &M,
    context: &HookContext,
    packet: &Packet,
    sender: IfIndex,
    verdict: Verdict,
) {
    let Some(key) = maps.take_deferred_flow(context.flow_handle) else { return };
    // A later fragment has no ports.
    if key.protocol != packet.protocol
        || (sender.0 != 0 && sender != key.ifindex)
        || matches!(packet.fragment, Fragment::Later)
    {
        return;
    }
    let mut flow = FlowValue::UNKNOWN;
    if maps.flow(&key, &packet.src, &mut flow).is_none() {
        return;
    }
    let before = flow.marks;
    match verdict {
        Verdict::Pass(_) => {
            flow.marks &= !FlowValue::REVOKED;
            let backend = BackendValue { addr: packet.dst, port: packet.dst_port, pad: [0; 2] };
            maps.set_backend(&key, &backend);
        }
        Verdict::Drop(reason) => {
            // Other reasons say nothing about the flow.
            if !reason.is_policy() && !matches!(reason, DropReason::Tunnel) {
                return;
            }
            flow.marks |= FlowValue::REVOKED;
        }
    }
    if flow.marks != before && before & FlowValue::DEFERRED != 0 {
        maps.set_flow(&key, &flow, Local::Kept);
    }
}
