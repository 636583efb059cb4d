//! Deferred verdicts: the packet finds its sender again, and the flow learns the verdict.

use super::hook_context::HookContext;
use super::judge::judge;
use super::view::{Ruling, View};
use crate::ids::{Direction, IfIndex};
use crate::keys::{BackendValue, EndpointValue, FlowKey, FlowValue};
use crate::maps::{Local, PolicyMaps};
use crate::packet::{Fragment, Frame, Packet};
use crate::reason::{DropReason, PassReason, Verdict};

/// Whether nobody would finish a deferred verdict.
#[inline(always)]
pub(super) fn is_never_finished(view: &View) -> bool {
    let View { endpoint, direction, .. } = view;
    let is_enforced = endpoint.is_isolated(*direction) && !endpoint.is_audited(*direction);
    endpoint.egress_mark == 0 && is_enforced
}

/// Whether a pod has sent this packet to itself, through a Service. Over a routed veth, or a bridge whose packets
/// netfilter sees, the pod's own device is the one by which it came. On another bridge that is the bridge, and only
/// the egress mark tells.
#[inline(always)]
pub(super) fn is_hairpin<M: PolicyMaps>(maps: &M, seen: &HookContext) -> bool {
    seen.ingress_ifindex == seen.ifindex.0
        || (seen.egress_mark() != 0
            && maps.egress_mark_owner(seen.egress_mark()) == Some(seen.ifindex))
}

/// The egress verdict of the pod that sent a deferred packet, now that the real destination is known.
/// Leaves that pod's view in `view`.
#[inline(always)]
pub(super) fn finish_deferred<M: PolicyMaps, B: Frame + ?Sized>(
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

/// Tells the connection, as the pod that sent a deferred packet sees it, what has become of that. A sender without a
/// egress mark is not known: 0.
#[inline(never)]
pub(super) fn settle<M: PolicyMaps>(
    maps: &M,
    seen: &HookContext,
    packet: &Packet,
    sender: IfIndex,
    verdict: Verdict,
) {
    let Some(key) = maps.take_deferred_flow(seen.flow_handle) else { return };
    // A later piece has no ports.
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
            // The drop says nothing about the connection.
            if !reason.is_policy() {
                return;
            }
            flow.marks |= FlowValue::REVOKED;
        }
    }
    if flow.marks != before && before & FlowValue::DEFERRED != 0 {
        maps.set_flow(&key, &flow, Local::Kept);
    }
}
