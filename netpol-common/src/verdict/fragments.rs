//! Fragments: the ports of the first fragment are stored for the later ones.

use super::view::View;
use crate::ids::{Direction, Protocol};
use crate::keys::{FlowKey, FragmentKey, FragmentValue};
use crate::maps::PolicyMaps;
use crate::packet::Packet;

/// The datagram that a fragment belongs to.
#[inline(always)]
fn datagram(view: &View, packet: &Packet) -> FragmentKey {
    FragmentKey {
        ifindex: view.ifindex,
        id: packet.fragment_id,
        src: packet.src,
        dst: packet.dst,
        protocol: if packet.src.is_v4() { packet.protocol } else { Protocol(0) },
        stage: view.stage(),
        direction: view.direction().to_wire(),
        pad: 0,
    }
}

/// Stores the facts that only the first fragment of a datagram has.
#[inline(never)]
pub(super) fn store_first<M: PolicyMaps>(maps: &M, view: &View, packet: &Packet) {
    let first = FragmentValue {
        first_seen: view.now,
        src_port: packet.src_port,
        dst_port: packet.dst_port,
        protocol: packet.protocol,
        pad: [0; 3],
    };
    maps.set_fragment(&datagram(view, packet), &first);
}

/// Completes the flow key of a later fragment. Returns false if the first fragment is not known.
#[inline(never)]
pub(super) fn complete_key<M: PolicyMaps>(
    maps: &M,
    view: &View,
    packet: &Packet,
    key: &mut FlowKey,
) -> bool {
    let Some(first) = maps.fragment(&datagram(view, packet)) else { return false };
    // Linux discards an incomplete datagram after 30 s (IPv4) or 60 s (IPv6). Datagram numbers are reused later.
    if view.now.0.saturating_sub(first.first_seen.0) > 60_000_000_000 {
        return false;
    }
    key.protocol = first.protocol;
    (key.local_port, key.remote_port) = match view.direction() {
        Direction::Ingress => (first.dst_port, first.src_port),
        Direction::Egress => (first.src_port, first.dst_port),
    };
    true
}
