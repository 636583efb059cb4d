//! What the policy says about a connection, and what becomes of one whose verdict was deferred.

use super::judge::{Ruling, View};
use super::{DropReason, HookContext, PassReason, Verdict};
use crate::ids::{Direction, IfIndex, PortBe, Protocol};
use crate::keys::{AllowValue, BackendValue, FlowKey, FlowValue};
use crate::maps::{Local, PolicyMaps};
use crate::packet::{Fragment, Packet};

/// A drop for want of a rule, or a pass that is reported when the isolation is only audited.
#[inline(always)]
pub(super) fn audited(view: &View, direction: Direction, reason: DropReason) -> Ruling {
    if view.endpoint.is_audited(direction) {
        Ruling::pass(PassReason::Audited)
    } else {
        Ruling::drop(reason)
    }
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
        Verdict::Drop(DropReason::NotAllowed | DropReason::Denied | DropReason::Revoked) => {
            flow.marks |= FlowValue::REVOKED;
        }
        Verdict::Drop(_) => return,
    }
    if flow.marks != before && before & FlowValue::DEFERRED != 0 {
        maps.set_flow(&key, &flow, Local::Kept);
    }
}

/// Asks the policy: may this connection, begun in `origin`, exist?
#[inline(never)]
pub(super) fn consult<M: PolicyMaps>(
    maps: &M,
    view: &View,
    origin: Direction,
    key: &FlowKey,
) -> Ruling {
    let mut remote = key.remote;
    let mut port = match origin {
        Direction::Ingress => key.local_port,
        Direction::Egress => key.remote_port,
    };
    if matches!(origin, Direction::Egress)
        && key.stage == FlowKey::AT_POD
        && maps.is_deferred(&key.remote)
    {
        // The pod's own packets are decided where they leave for the backend, the answers to them here.
        let backend = match view.direction {
            Direction::Ingress => maps.backend(key),
            Direction::Egress => None,
        };
        let Some(backend) = backend else {
            // Without an egress mark nobody would finish the verdict, and a dropped packet must leave no flow.
            let is_enforced =
                view.endpoint.is_isolated(origin) && !view.endpoint.is_audited(origin);
            if view.endpoint.egress_mark == 0 && is_enforced {
                return Ruling::drop(DropReason::UnknownEgressMark);
            }
            return Ruling::pass(PassReason::Deferred);
        };
        (remote, port) = (backend.addr, backend.port);
    }
    if !view.endpoint.is_isolated(origin) {
        return Ruling::pass(PassReason::NotIsolated);
    }
    // An echo's identifier is no port.
    if !matches!(key.protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP) {
        port = PortBe::ZERO;
    }
    let identity = maps.identity(&remote);
    match maps.allow(view.places, origin, identity, key.protocol, port) {
        Some(value) if value.verdict == AllowValue::ALLOW => {
            Ruling::new(Verdict::Pass(PassReason::Allowed), value.rule)
        }
        Some(value) => Ruling::new(Verdict::Drop(DropReason::Denied), value.rule),
        None => audited(view, origin, DropReason::NotAllowed),
    }
}
