//! The verdict of one endpoint on an IP packet.

use super::connection::flow_key;
use super::view::{Ruled, Ruling, View};
use crate::flow;
use crate::ids::IfIndex;
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
) -> Ruled {
    if packet.is_icmp_error()
        && matches!(packet.fragment, Fragment::Whole)
        && let Some(redirect) = quoted_flow(maps, bytes, view, packet)
    {
        let redirect = if view.may_redirect() { redirect } else { IfIndex(0) };
        return Ruled::of(Ruling::pass(PassReason::IcmpError)).redirected(redirect);
    }
    let ruled = maps.judge_connection(view, packet);
    if ruled.begins() {
        maps.count_rule(ruled.rule());
    }
    ruled
}

/// Whether an ICMP error quotes a packet of a live connection of this endpoint. Returns the interface to which its packets are
/// redirected.
#[inline(never)]
pub(super) fn quoted_flow<M: PolicyMaps, B: Frame + ?Sized>(
    maps: &M,
    bytes: &B,
    view: &View,
    error: &Packet,
) -> Option<IfIndex> {
    let mut quoted = Packet::EMPTY;
    let parsed = bytes.parse_quoted(error.protocol, error.quotation_offset(), &mut quoted);
    if parsed != Parsed::Ip || quoted.src != error.dst {
        return None;
    }
    let key = flow_key(view, view.direction().reversed(), &quoted);
    let mut flow = FlowValue::UNKNOWN;
    maps.flow(&key, &quoted.src, &mut flow)?;
    let is_live =
        flow.marks & FlowValue::REVOKED == 0 && !flow::is_expired(&flow, key.protocol, view.now);
    is_live.then_some(flow.redirect)
}
