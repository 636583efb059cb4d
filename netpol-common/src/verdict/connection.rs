//! The verdict on an IP packet by the flow that it belongs to or begins.

use super::fragments::{complete_key, store_first};
use super::policy::{audited, consult, is_enforced, unless_isolated, unless_isolated_for};
use super::view::{Ruled, Ruling, View};
use crate::flow;
use crate::ids::{Direction, IfIndex, Nanos, Protocol};
use crate::keys::{FlowKey, FlowValue};
use crate::maps::{Local, PolicyMaps};
use crate::packet::{Fragment, Packet};
use crate::reason::{DropReason, PassReason, Verdict};

/// Judges an IP packet by the flow that it belongs to or begins. The kernel's maps replace this by a global function, which the verifier
/// walks once.
#[inline(always)]
pub fn judge_connection<M: PolicyMaps>(maps: &M, view: &View, packet: &Packet) -> Ruled {
    let mut key = flow_key(view, view.direction(), packet);
    match packet.fragment {
        Fragment::Whole => {}
        Fragment::First => store_first(maps, view, packet),
        Fragment::Later if complete_key(maps, view, packet, &mut key) => {}
        Fragment::Later => {
            return Ruled::of(match view.exempt() {
                Some(reason) => Ruling::pass(reason),
                None => unless_isolated(view, DropReason::FragmentWithoutFirst),
            });
        }
    }
    // The first packet of a TCP connection is always decided, also if there is a flow of an older connection.
    let opens = key.protocol.0 == Protocol::TCP.0 && flow::tcp::opens(packet.tcp_flags);
    if !opens && !view.has_no_flow() {
        let mut flow = FlowValue::UNKNOWN;
        let found = maps.flow(&key, &packet.src, &mut flow);
        if let Some(is_same_sender) = found
            && !flow::is_expired(&flow, key.protocol, view.now)
        {
            let is_new = matches!(view.direction(), Direction::Egress) && !is_same_sender;
            // The source address has been validated before, so the flow may store it.
            let local = if is_new { Local::At(&packet.src) } else { Local::Kept };
            return follow(maps, view, packet, &key, &mut flow, local);
        }
    }
    begin(maps, view, packet, &key)
}

/// The key of the flow that a packet belongs to. For a packet quoted by an ICMP error, `direction` is that of the quoted packet.
#[inline(always)]
pub(super) const fn flow_key(view: &View, direction: Direction, packet: &Packet) -> FlowKey {
    let (remote, local_port, remote_port) = match direction {
        Direction::Ingress => (packet.src, packet.dst_port, packet.src_port),
        Direction::Egress => (packet.dst, packet.src_port, packet.dst_port),
    };
    let ([l0, l1], [r0, r1]) = (local_port.0, remote_port.0);
    let ports = u32::from_ne_bytes([l0, l1, r0, r1]);
    FlowKey::new(view.ifindex, remote, ports, packet.protocol, view.stage())
}

/// Judges a packet of an established flow. `local` is the address that the pod sends from, if it is a new one.
#[inline(always)]
fn follow<M: PolicyMaps>(
    maps: &M,
    view: &View,
    packet: &Packet,
    key: &FlowKey,
    flow: &mut FlowValue,
    local: Local<'_>,
) -> Ruled {
    let origin = if flow.origin == Direction::Ingress.to_wire() {
        Direction::Ingress
    } else {
        Direction::Egress
    };
    let mut audit = false;
    let is_old = flow.epoch != view.epoch;
    let is_other = view.redirect().0 != 0 && view.redirect() != flow.redirect;
    if flow.redirect.0 != 0 && (is_other || !view.may_redirect()) {
        flow.redirect = IfIndex(0);
        // So that the flow is written below, without a variable that would need stack.
        flow.last_seen = Nanos(0);
    }
    if is_old {
        flow.epoch = view.epoch;
        if flow.marks & FlowValue::EXEMPT == 0 {
            let ruling = consult(maps, view, origin, key);
            let was_revoked = flow.marks & FlowValue::REVOKED != 0;
            flow.marks &= !FlowValue::REVOKED;
            if matches!(view.direction(), Direction::Egress) {
                flow.marks &= !FlowValue::DEFERRED;
            }
            match ruling.verdict {
                Verdict::Pass(PassReason::Deferred) => {
                    flow.marks |= FlowValue::DEFERRED;
                    flow.redirect = IfIndex(0);
                    // The verdict is not known yet, so a revoked flow stays revoked.
                    if was_revoked {
                        flow.marks |= FlowValue::REVOKED;
                    }
                }
                Verdict::Pass(reason) => {
                    flow.rule = ruling.rule;
                    audit = matches!(reason, PassReason::Audited);
                }
                Verdict::Drop(_) => {
                    let is_kept = view.endpoint.keeps_flows(origin) && !was_revoked;
                    if !is_kept {
                        flow.rule = ruling.rule;
                        flow.marks |= FlowValue::REVOKED;
                    }
                }
            }
        }
    }
    let state = flow::next_state(flow, key.protocol, view.direction(), packet.tcp_flags);
    // A packet to the pod does not show whether the pod may still send from the stored address in the new epoch. The slow path
    // validates the pod's next packet.
    let local = match view.direction() {
        Direction::Ingress if is_old => Local::Unknown,
        Direction::Ingress | Direction::Egress => local,
    };
    let is_written = is_old
        || local != Local::Kept
        || state != flow.state
        || view.now.0.saturating_sub(flow.last_seen.0) >= flow::REFRESH_NS;
    if is_written {
        flow.state = state;
        flow.last_seen = view.now;
        maps.set_flow(key, flow, local);
    }
    let is_revoked = flow.marks & FlowValue::REVOKED != 0;
    if flow.marks & FlowValue::DEFERRED != 0 && matches!(view.direction(), Direction::Egress) {
        let mut ruling = Ruling::new(Verdict::Pass(PassReason::Deferred), flow.rule);
        if is_written || is_revoked {
            ruling.flow_handle = maps.store_deferred_flow(key);
        }
        return Ruled::of(ruling);
    }
    if is_revoked {
        return Ruled::of(match view.exempt() {
            Some(reason) => Ruling::pass(reason),
            None => Ruling::new(Verdict::Drop(DropReason::Revoked), flow.rule),
        });
    }
    let reason = if audit { PassReason::Audited } else { PassReason::Flow };
    Ruled::of(Ruling::new(Verdict::Pass(reason), flow.rule)).redirected(flow.redirect)
}

/// Judges the first packet of a flow, or one from the middle of a connection that has no flow.
///
/// A segment from the middle of a connection begins the flow that a SYN of the same sender would begin, because the flow of a
/// connection may have been evicted. A SYN-ACK and a RST begin none. A SYN-ACK is judged as the answer to a connection that its
/// receiver began. It may answer nothing, so it drops if its own direction is isolated; nobody allows it there.
#[inline(always)]
fn begin<M: PolicyMaps>(maps: &M, view: &View, packet: &Packet, key: &FlowKey) -> Ruled {
    // Bits and no conditions, because the verifier would walk what follows once for each outcome. Other protocols have no flags.
    let answers = flow::tcp::answers(packet.tcp_flags) & (key.stage ^ FlowKey::AFTER_NAT);
    let origin = Direction::from_bit(view.direction().to_wire() ^ answers);
    let mut ruling = match view.exempt() {
        Some(reason) => Ruling::pass(reason),
        None if view.endpoint.isolated & (answers << view.direction().to_wire()) != 0 => {
            return Ruled::of(audited(view, view.direction(), DropReason::NotAllowed));
        }
        None => consult(maps, view, origin, key),
    };
    if !flow::tcp::begins_flow(packet.tcp_flags) {
        // The backend of the connection that it answers is not known.
        let is_unknown = matches!(ruling.verdict, Verdict::Pass(PassReason::Deferred));
        if answers != 0 && is_unknown {
            return Ruled::of(unless_isolated_for(view, origin, DropReason::NotAllowed));
        }
        return Ruled::of(ruling);
    }
    // Dropped packets create no flow. Otherwise a pod could allow the answers to its own forbidden packets.
    if let Verdict::Pass(reason) = ruling.verdict {
        let marks = match reason {
            PassReason::OwnNode | PassReason::Hairpin => FlowValue::EXEMPT,
            // Revoked until the verdict is finished, because the backend may answer before that.
            PassReason::Deferred if is_enforced(&view.endpoint, origin) => {
                FlowValue::DEFERRED | FlowValue::REVOKED
            }
            PassReason::Deferred => FlowValue::DEFERRED,
            PassReason::NotIsolated
            | PassReason::Allowed
            | PassReason::Flow
            | PassReason::Arp
            | PassReason::NeighbourDiscovery
            | PassReason::IcmpError
            | PassReason::NoEgressMark
            | PassReason::FromOutside
            | PassReason::Audited => 0,
        };
        let state = flow::first_state(key.protocol, packet.tcp_flags);
        let facts = [view.direction().to_wire(), state, marks];
        let local = match view.direction() {
            Direction::Ingress => Local::Unknown,
            Direction::Egress => Local::At(&packet.src),
        };
        let redirect = if marks == 0 { view.redirect() } else { IfIndex(0) };
        let flow = FlowValue::new(view.now, view.epoch, ruling.rule, facts).redirected(redirect);
        maps.set_flow(key, &flow, local);
        if matches!(reason, PassReason::Deferred) {
            ruling.flow_handle = maps.store_deferred_flow(key);
        }
        return Ruled::of(ruling).redirected(flow.redirect).beginning();
    }
    Ruled::of(ruling).beginning()
}
