//! The verdict of the policy on a flow.

use super::view::{Ruling, View};
use crate::ids::{Direction, PortBe, Protocol};
use crate::keys::{AllowValue, EndpointValue, FlowKey};
use crate::maps::PolicyMaps;
use crate::reason::{DropReason, PassReason, Verdict};

/// A drop of a packet that cannot be compared with rules. If no policy of the direction drops anything, the packet passes and is
/// reported.
#[inline(always)]
pub(super) fn audited(view: &View, direction: Direction, reason: DropReason) -> Ruling {
    if view.endpoint.only_reports(direction) {
        Ruling::pass(PassReason::Audited)
    } else {
        Ruling::drop(reason)
    }
}

/// A drop for an isolated pod, else a pass: for packets that rules cannot describe.
#[inline(always)]
pub(super) fn unless_isolated(view: &View, reason: DropReason) -> Ruling {
    unless_isolated_for(view, view.direction(), reason)
}

/// The same for isolation in a direction that may be another one than the packet's.
#[inline(always)]
pub(super) fn unless_isolated_for(view: &View, direction: Direction, reason: DropReason) -> Ruling {
    if !view.endpoint.is_isolated(direction) {
        return Ruling::pass(PassReason::NotIsolated);
    }
    audited(view, direction, reason)
}

/// Whether anything drops in this direction.
#[inline(always)]
pub(super) const fn is_enforced(endpoint: &EndpointValue, direction: Direction) -> bool {
    endpoint.is_isolated(direction) && !endpoint.only_reports(direction)
}

/// Whether a deferred verdict of this endpoint could not be finished, because without an egress mark the endpoint is not found
/// again.
#[inline(always)]
pub(super) const fn is_never_finished(endpoint: &EndpointValue, direction: Direction) -> bool {
    endpoint.egress_mark == 0 && is_enforced(endpoint, direction)
}

/// Whether the policy allows a flow that began in direction `origin`.
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
        // Without a branch of its own, which the verifier would walk twice.
        && maps.is_deferred(&key.remote) | view.endpoint.defers_all()
    {
        // The verdict on the pod's own packets is deferred to the hook where the backend is known. Answers are judged here.
        let backend = match view.direction() {
            Direction::Ingress => maps.backend(key),
            Direction::Egress => None,
        };
        let Some(backend) = backend else {
            // Dropped here and not later, because a dropped packet must create no flow.
            if is_never_finished(&view.endpoint, origin) {
                return Ruling::drop(DropReason::UnknownEgressMark);
            }
            return Ruling::pass(PassReason::Deferred);
        };
        (remote, port) = (backend.addr, backend.port);
    }
    if !view.endpoint.is_isolated(origin) {
        return Ruling::pass(PassReason::NotIsolated);
    }
    // The identifier of an ICMP echo is no port.
    if !matches!(key.protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP) {
        port = PortBe::ZERO;
    }
    let identity = maps.identity(&remote);
    match maps.allow(view.slots, origin, identity, key.protocol, port) {
        Some(value) if value.verdict == AllowValue::ALLOW => {
            Ruling::new(Verdict::Pass(PassReason::Allowed), value.rule)
        }
        Some(value) if value.verdict == AllowValue::AUDIT => {
            Ruling::new(Verdict::Pass(PassReason::Audited), value.rule)
        }
        Some(value) if value.verdict != AllowValue::DEFAULT => {
            Ruling::new(Verdict::Drop(DropReason::Denied), value.rule)
        }
        Some(_) | None if view.endpoint.is_audited(origin) => Ruling::pass(PassReason::Audited),
        Some(_) | None => Ruling::drop(DropReason::NotAllowed),
    }
}
