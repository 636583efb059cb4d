//! Source address validation, for ARP and neighbour discovery too.

use core::mem::MaybeUninit;

use super::policy::unless_isolated;
use super::view::{Ruling, View};
use crate::addr::Addr;
use crate::ids::{Direction, IfIndex};
use crate::keys::AddressKey;
use crate::mac::Mac;
use crate::maps::PolicyMaps;
use crate::packet::{ARP_SENDER_OFFSET, Frame, Packet, PacketBytes};
use crate::reason::{DropReason, PassReason};

/// Whether a frame from the pod has another source MAC address than the pod's, by which a bridge would learn that the other address
/// is behind this interface; or whether a frame to the pod is addressed to another device, which a bridge floods to all its ports.
///
/// A MAC address that is not known is not checked.
#[inline(always)]
pub(super) fn has_foreign_mac<B: PacketBytes + ?Sized>(
    bytes: &B,
    own: Mac,
    direction: Direction,
) -> bool {
    if own == Mac::UNKNOWN {
        return false;
    }
    let Some(mac) = bytes.pod_mac(direction) else { return true };
    mac != own && (matches!(direction, Direction::Egress) || !mac.is_group())
}

/// The MAC address of an endpoint, if it is known.
#[inline(always)]
pub(super) fn own_mac<M: PolicyMaps>(maps: &M, ifindex: IfIndex) -> Mac {
    maps.mac(ifindex).unwrap_or(Mac::UNKNOWN)
}

/// Why a frame with another MAC address than the pod's drops.
#[inline(always)]
pub(super) const fn foreign_mac(direction: Direction) -> DropReason {
    match direction {
        Direction::Ingress => DropReason::OtherMac,
        Direction::Egress => DropReason::Spoofed,
    }
}

/// Judges a frame whose sender cannot be told: it has a VLAN tag, another ethertype, or headers that cannot be parsed. A pod
/// sends no such frame, isolated or not, because behind a tag or an endless chain of headers it could pose as another pod.
#[inline(always)]
pub(super) fn judge_opaque(view: &View, reason: DropReason) -> Ruling {
    match view.direction() {
        Direction::Egress => Ruling::drop(reason),
        Direction::Ingress => unless_isolated(view, reason),
    }
}

/// Judges an ARP message: a pod must send its own IP and MAC address. One that forwards must not send the IP address of another pod or
/// of a node.
#[inline(always)]
pub(super) fn judge_arp<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    view: &View,
    sender: &Addr,
) -> Ruling {
    let is_own = matches!(view.direction(), Direction::Ingress)
        || ((view.endpoint.forwards() || is_own_hardware(maps, bytes, view))
            && (sender.is_unspecified() || !is_foreign(maps, view, sender)));
    if is_own { Ruling::pass(PassReason::Arp) } else { Ruling::drop(DropReason::Spoofed) }
}

/// Whether the sender's MAC address in an ARP message is the pod's, or the pod's is not known.
#[inline(always)]
fn is_own_hardware<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    view: &View,
) -> bool {
    let own = own_mac(maps, view.ifindex);
    let mut buffer = MaybeUninit::uninit();
    own == Mac::UNKNOWN
        || bytes.load(ARP_SENDER_OFFSET, &mut buffer).is_some_and(|mac| Mac::new(*mac) == own)
}

/// Whether a pod sends from an address that is not its own, announces such an address, or acts as a router. A pod that forwards may do
/// so, except for addresses of other pods and of nodes.
#[inline(always)]
pub(super) fn is_spoofed<M: PolicyMaps, B: Frame + ?Sized>(
    maps: &M,
    bytes: &B,
    view: &View,
    packet: &Packet,
) -> bool {
    let forwards = view.endpoint.forwards();
    if !forwards && (packet.is_router_message() || packet.is_fragmented_discovery()) {
        return true;
    }
    if packet.claims_address() {
        let mut buffer = MaybeUninit::uninit();
        let target = bytes.load::<Addr>(packet.quotation_offset(), &mut buffer);
        if target.is_none_or(|target| is_foreign(maps, view, target)) {
            return true;
        }
    }
    // Duplicate address detection sends from `::`, and so does multicast listener discovery before it.
    if packet.src.is_unspecified() {
        let is_message =
            packet.has_link_message_type() && bytes.is_link_message(view.direction(), packet);
        return !(forwards || is_message);
    }
    is_foreign(maps, view, &packet.src)
}

/// Whether the pod must not send from the address. Of a pod whose MAC address is not known, the link-local addresses are not known
/// either.
#[inline(always)]
fn is_foreign<M: PolicyMaps>(maps: &M, view: &View, addr: &Addr) -> bool {
    if maps.owns_address(&AddressKey { ifindex: view.ifindex, addr: *addr }) {
        return false;
    }
    if view.endpoint.forwards() {
        return maps.is_taken(addr);
    }
    !(addr.is_v6_link_local() && own_mac(maps, view.ifindex) == Mac::UNKNOWN)
}
