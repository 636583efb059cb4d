//! The short way of most packets: the connection is known, and nothing about it has changed.

use super::hook_context::HookContext;
use super::outcome::Outcome;
use crate::flow::{self, Step};
use crate::ids::{Direction, IfIndex};
use crate::keys::FlowKey;
use crate::maps::{PolicyMaps, Settled};
use crate::packet::{Packet, PacketBytes, parse_plain};
use crate::reason::{PassReason, Verdict};

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
    seen: &HookContext,
    direction: Direction,
    packet: &mut Packet,
) -> Shortcut {
    let is_egress = matches!(direction, Direction::Egress);
    // Somebody else's verdict is to be finished first.
    let is_deferred = !is_egress && (seen.mark & seen.mark_mask != 0 || seen.flow_handle != 0);
    if seen.is_tagged || is_deferred {
        return Shortcut::None;
    }
    let Some(plain) = parse_plain(bytes) else { return Shortcut::None };
    *packet = plain.packet();
    // An address that says nothing is nobody's own.
    let is_from_nowhere = is_egress && packet.src.is_unspecified();
    if is_from_nowhere || flow::tcp::opens(packet.tcp_flags) {
        return Shortcut::Read;
    }
    let (remote, ports) =
        if is_egress { (plain.dst, plain.ports) } else { (plain.src, plain.ports.rotate_left(16)) };
    let key = FlowKey::new(seen.ifindex, remote, ports, plain.protocol, FlowKey::AT_POD);
    // Read first: what is decided with a state that changes meanwhile counts as old.
    let epoch = maps.epoch();
    let step = Step { now: seen.now, epoch, direction, tcp_flags: packet.tcp_flags };
    match maps.settled(&key, is_egress.then_some(&packet.src), &step) {
        Settled::Yes(rule) => Shortcut::Done(Outcome {
            verdict: Verdict::Pass(PassReason::Flow),
            rule,
            mark: seen.mark_with(0),
            flow_handle: 0,
            ifindex: seen.ifindex,
            direction,
            audited_sender: IfIndex(0),
        }),
        Settled::No => Shortcut::Read,
        Settled::Unknown => Shortcut::Unknown,
    }
}
