//! What the policy says about a connection.

use super::view::{Ruling, View};
use crate::ids::{Direction, PortBe, Protocol};
use crate::keys::{AllowValue, FlowKey};
use crate::maps::PolicyMaps;
use crate::reason::{DropReason, PassReason, Verdict};

/// A drop for want of a rule, or a pass that is reported when the isolation is only audited.
#[inline(always)]
pub(super) fn audited(view: &View, direction: Direction, reason: DropReason) -> Ruling {
    if view.endpoint.is_audited(direction) {
        Ruling::pass(PassReason::Audited)
    } else {
        Ruling::drop(reason)
    }
}

/// Drops for an isolated pod, passes otherwise: what rules cannot speak about.
#[inline(always)]
pub(super) fn unless_isolated(view: &View, reason: DropReason) -> Ruling {
    if !view.endpoint.is_isolated(view.direction) {
        return Ruling::pass(PassReason::NotIsolated);
    }
    audited(view, view.direction, reason)
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
        Some(value) if value.verdict != AllowValue::DEFAULT => {
            Ruling::new(Verdict::Drop(DropReason::Denied), value.rule)
        }
        Some(_) | None => audited(view, origin, DropReason::NotAllowed),
    }
}
