//! The verdict of one endpoint on an IP packet.

use super::connection::flow_key;
use super::view::{Ruling, View};
use crate::flow;
use crate::keys::FlowValue;
use crate::maps::PolicyMaps;
use crate::packet::{Fragment, Frame, Packet, Parsed};
use crate::reason::PassReason;

/// Judges an IP packet for one endpoint. Functions that read more of the packet are not called from those that look up flows, because
/// BPF has little stack.
#[inline(always)]
pub(super) fn judge<M: PolicyMaps, B: Frame + ?Sized>(
    maps: &M,
    bytes: &B,
    view: &View,
    packet: &Packet,
) -> Ruling {
    if packet.is_icmp_error()
        && matches!(packet.fragment, Fragment::Whole)
        && quotes_flow(maps, bytes, view, packet)
    {
        return Ruling::pass(PassReason::IcmpError);
    }
    maps.judge_connection(view, packet).ruling()
}

/// Whether an ICMP error quotes a packet of a live connection of this endpoint.
#[inline(never)]
fn quotes_flow<M: PolicyMaps, B: Frame + ?Sized>(
    maps: &M,
    bytes: &B,
    view: &View,
    error: &Packet,
) -> bool {
    let mut quoted = Packet::EMPTY;
    let parsed = bytes.parse_quoted(error.protocol, error.quotation_offset(), &mut quoted);
    if parsed != Parsed::Ip || quoted.src != error.dst {
        return false;
    }
    let key = flow_key(view, view.direction.reversed(), &quoted);
    let mut flow = FlowValue::UNKNOWN;
    maps.flow(&key, &quoted.src, &mut flow).is_some()
        && flow.marks & FlowValue::REVOKED == 0
        && !flow::is_expired(&flow, key.protocol, view.now)
}
