//! An IP packet by the connection that it belongs to or begins.

use super::fragments::{note_fragment, resolve_fragment};
use super::policy::{consult, unless_isolated};
use super::view::{Ruling, View};
use crate::flow;
use crate::ids::{Direction, Protocol};
use crate::keys::{FlowKey, FlowValue};
use crate::maps::{Local, PolicyMaps};
use crate::packet::{Fragment, Packet};
use crate::reason::{DropReason, PassReason, Verdict};

/// Judges an IP packet by the connection that it belongs to or begins.
#[inline(never)]
pub(super) fn judge_connection<M: PolicyMaps>(maps: &M, view: &View, packet: &Packet) -> Ruling {
    let mut key = flow_key(view, view.direction, packet);
    match packet.fragment {
        Fragment::Whole => {}
        Fragment::First => note_fragment(maps, view, packet),
        Fragment::Later if resolve_fragment(maps, view, packet, &mut key) => {}
        Fragment::Later => {
            return match view.exempt {
                Some(reason) => Ruling::pass(reason),
                None => unless_isolated(view, DropReason::FragmentWithoutFirst),
            };
        }
    }
    // The first packet of a TCP connection is always decided, whatever an older connection left behind.
    let opens = key.protocol.0 == Protocol::TCP.0 && flow::tcp::opens(packet.tcp_flags);
    if !opens && !view.is_unknown {
        let mut flow = FlowValue::UNKNOWN;
        let found = maps.flow(&key, &packet.src, &mut flow);
        if let Some(is_from_there) = found
            && !flow::is_expired(&flow, key.protocol, view.now)
        {
            let is_new = matches!(view.direction, Direction::Egress) && !is_from_there;
            // What is from somewhere new may be from there: that is known by now.
            let local = if is_new { Local::At(&packet.src) } else { Local::Kept };
            return follow(maps, view, packet, &key, &mut flow, local);
        }
    }
    begin(maps, view, packet, &key)
}

/// The key of the packet's connection. For a quotation `direction` is that of the quoted packet.
#[inline(always)]
pub(super) const fn flow_key(view: &View, direction: Direction, packet: &Packet) -> FlowKey {
    let (remote, local_port, remote_port) = match direction {
        Direction::Ingress => (packet.src, packet.dst_port, packet.src_port),
        Direction::Egress => (packet.dst, packet.src_port, packet.dst_port),
    };
    let ([l0, l1], [r0, r1]) = (local_port.0, remote_port.0);
    let ports = u32::from_ne_bytes([l0, l1, r0, r1]);
    FlowKey::new(view.ifindex, remote, ports, packet.protocol, view.stage)
}

/// A packet of a known connection; `local` is where the pod sends from, if that is new.
#[inline(always)]
fn follow<M: PolicyMaps>(
    maps: &M,
    view: &View,
    packet: &Packet,
    key: &FlowKey,
    flow: &mut FlowValue,
    local: Local<'_>,
) -> Ruling {
    let origin = if flow.origin == Direction::Ingress.to_wire() {
        Direction::Ingress
    } else {
        Direction::Egress
    };
    let mut audit = false;
    let is_old = flow.epoch != view.epoch;
    if is_old {
        flow.epoch = view.epoch;
        if flow.marks & FlowValue::EXEMPT == 0 {
            let ruling = consult(maps, view, origin, key);
            let was_revoked = flow.marks & FlowValue::REVOKED != 0;
            flow.marks &= !FlowValue::REVOKED;
            if matches!(view.direction, Direction::Egress) {
                flow.marks &= !FlowValue::DEFERRED;
            }
            match ruling.verdict {
                Verdict::Pass(PassReason::Deferred) => {
                    flow.marks |= FlowValue::DEFERRED;
                    // Nothing new is known: what is revoked stays revoked until it is.
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
    let state = flow::next_state(flow, key.protocol, view.direction, packet.tcp_flags);
    // What comes to the pod does not tell whether it may still send from where it did: its next packet is looked at for that.
    let local = match view.direction {
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
    if flow.marks & FlowValue::DEFERRED != 0 && matches!(view.direction, Direction::Egress) {
        let mut ruling = Ruling::new(Verdict::Pass(PassReason::Deferred), flow.rule);
        if is_written || is_revoked {
            ruling.flow_handle = maps.store_deferred_flow(key);
        }
        return ruling;
    }
    if is_revoked {
        return match view.exempt {
            Some(reason) => Ruling::pass(reason),
            None => Ruling::new(Verdict::Drop(DropReason::Revoked), flow.rule),
        };
    }
    let reason = if audit { PassReason::Audited } else { PassReason::Flow };
    Ruling::new(Verdict::Pass(reason), flow.rule)
}

/// The first packet of a connection, or one from the middle of a connection that is not known.
#[inline(always)]
fn begin<M: PolicyMaps>(maps: &M, view: &View, packet: &Packet, key: &FlowKey) -> Ruling {
    let mut ruling = match view.exempt {
        Some(reason) => Ruling::pass(reason),
        None => consult(maps, view, view.direction, key),
    };
    // Only packets that pass may leave a trace: else a pod could open the way for its answers.
    if let Verdict::Pass(reason) = ruling.verdict {
        let marks = match reason {
            PassReason::OwnNode | PassReason::Hairpin => FlowValue::EXEMPT,
            PassReason::Deferred => FlowValue::DEFERRED,
            PassReason::NotIsolated
            | PassReason::Allowed
            | PassReason::Flow
            | PassReason::Arp
            | PassReason::NeighbourDiscovery
            | PassReason::IcmpError
            | PassReason::NoEgressMark
            | PassReason::Audited => 0,
        };
        let state = flow::first_state(key.protocol, packet.tcp_flags);
        let facts = [view.direction.to_wire(), state, marks];
        let local = match view.direction {
            Direction::Ingress => Local::Unknown,
            Direction::Egress => Local::At(&packet.src),
        };
        let flow = FlowValue::new(view.now, view.epoch, ruling.rule, facts);
        maps.set_flow(key, &flow, local);
        if matches!(reason, PassReason::Deferred) {
            ruling.flow_handle = maps.store_deferred_flow(key);
        }
    }
    ruling
}
