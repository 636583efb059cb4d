//! The short way of most packets: the connection is known, and nothing about it has changed.

use super::{Outcome, PassReason, Sighting, Verdict};
use crate::flow;
use crate::ids::{Direction, IfIndex};
use crate::keys::{FlowKey, FlowValue};
use crate::maps::{Peek, PolicyMaps};
use crate::packet::{Packet, PacketBytes, parse_plain};

/// How far the short way led.
pub(super) enum Shortcut {
    /// To the end.
    Done(Outcome),
    /// The packet is read, and its connection is not known.
    Unknown,
    /// The packet is read.
    Read,
    /// Nowhere.
    None,
}

/// Passes a packet whose connection was decided in this epoch, if there is nothing to write and nothing to finish. What
/// comes from the pod must bear the address that it sent from before: that one was found to be the pod's own in this epoch.
///
/// ENDPOINTS is not asked: whatever becomes of an endpoint, the epoch is bumped after the change. What this way passes the
/// long way passes too, but for changes that are under way.
#[inline(always)]
pub(super) fn follow_known<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    seen: &Sighting,
    direction: Direction,
    packet: &mut Packet,
) -> Shortcut {
    let is_egress = matches!(direction, Direction::Egress);
    // Somebody else's verdict is to be finished first.
    let is_deferred = !is_egress && (seen.mark & seen.ticket_mask != 0 || seen.stub != 0);
    if seen.is_tagged || is_deferred {
        return Shortcut::None;
    }
    let Some(plain) = parse_plain(bytes) else { return Shortcut::None };
    *packet = plain.packet();
    if flow::tcp::opens(packet.tcp_flags) {
        return Shortcut::Read;
    }
    let (remote, ports) =
        if is_egress { (plain.dst, plain.ports) } else { (plain.src, plain.ports.rotate_left(16)) };
    let key = FlowKey::new(seen.ifindex, remote, ports, plain.protocol, FlowKey::AT_POD);
    let rule = maps.peek_flow(&key, &packet.src, |flow, is_from_there| {
        let is_settled = flow.epoch == maps.epoch() && flow.marks & !FlowValue::EXEMPT == 0;
        // Younger than any timeout.
        let is_fresh = seen.now.0.saturating_sub(flow.last_seen.0) < flow::REFRESH_NS;
        let state = flow::next_state(flow, plain.protocol, direction, packet.tcp_flags);
        let is_own = !is_egress || (is_from_there && !packet.src.is_unspecified());
        (is_settled && is_fresh && state == flow.state && is_own).then_some(flow.rule)
    });
    match rule {
        Peek::Found(Some(rule)) => Shortcut::Done(Outcome {
            verdict: Verdict::Pass(PassReason::Flow),
            rule,
            mark: seen.mark_with(0),
            stub: 0,
            ifindex: seen.ifindex,
            direction,
            audited_sender: IfIndex(0),
        }),
        Peek::Found(None) | Peek::Changing => Shortcut::Read,
        Peek::Absent => Shortcut::Unknown,
    }
}
