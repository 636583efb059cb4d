//! Source address validation, for ARP and neighbour discovery too.

use core::mem::MaybeUninit;

use super::policy::unless_isolated;
use super::view::{Ruling, View};
use crate::addr::Addr;
use crate::ids::Direction;
use crate::keys::AddressKey;
use crate::maps::PolicyMaps;
use crate::packet::{Packet, PacketBytes};
use crate::reason::{DropReason, PassReason};

/// Judges a frame whose sender cannot be told: it has a VLAN tag, another ethertype, or headers that cannot be parsed. A pod
/// sends no such frame, isolated or not, because behind a tag or an endless chain of headers it could pose as another pod.
#[inline(always)]
pub(super) fn judge_opaque(view: &View, reason: DropReason) -> Ruling {
    match view.direction {
        Direction::Egress => Ruling::drop(reason),
        Direction::Ingress => unless_isolated(view, reason),
    }
}

/// Judges an ARP message: a pod must send its own address.
#[inline(always)]
pub(super) fn judge_arp<M: PolicyMaps>(maps: &M, view: &View, sender: &Addr) -> Ruling {
    let is_own = matches!(view.direction, Direction::Ingress)
        || view.endpoint.forwards()
        || sender.is_unspecified()
        || maps.owns_address(&AddressKey { ifindex: view.ifindex, addr: *sender });
    if is_own { Ruling::pass(PassReason::Arp) } else { Ruling::drop(DropReason::Spoofed) }
}

/// Whether a pod sends from an address that is not its own, announces such an address, or acts as a router.
#[inline(always)]
pub(super) fn is_spoofed<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    view: &View,
    packet: &Packet,
) -> bool {
    if view.endpoint.forwards() {
        return false;
    }
    if packet.is_router_message() {
        return true;
    }
    if packet.is_neighbour_advertisement() {
        let mut buffer = MaybeUninit::uninit();
        let target = bytes.load::<Addr>(packet.quotation_offset(), &mut buffer);
        if target.is_none_or(|target| is_foreign(maps, view, target)) {
            return true;
        }
    }
    // Duplicate address detection sends from `::`.
    let is_probe = packet.src.is_unspecified() && packet.is_neighbour_discovery();
    !is_probe && is_foreign(maps, view, &packet.src)
}

/// Whether the address is not the pod's own. Every pod may use link-local addresses, because its kernel generates them and they are
/// not routed.
#[inline(always)]
fn is_foreign<M: PolicyMaps>(maps: &M, view: &View, addr: &Addr) -> bool {
    !addr.is_v6_link_local()
        && !maps.owns_address(&AddressKey { ifindex: view.ifindex, addr: *addr })
}
