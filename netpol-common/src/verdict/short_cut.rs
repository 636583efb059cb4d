//! The short cut between two pods: the packet is redirected from one interface to the other, past the bridge and netfilter.
//!
//! If both pods are on this node and their flows are current, the packet is moved into the receiver's network namespace. Otherwise it goes
//! to the receiver's own hook, where it is judged as any other. If the receiver is on another node, the packet goes to the device that
//! leads there; what arrives through that device goes to the receiver as packets of pods of this node do.
//!
//! A connection takes the short cut with all its packets or not at all: conntrack must not see only a part of a connection from its
//! beginning. So the first packet sets [`FlowValue::redirect`] in the flows of the pods of this node, and a later packet that takes the
//! usual way ends that for good. Conntrack then takes the connection for one that began before it looked.

use super::outcome::Target;
use super::spoofing::own_mac;
use super::view::View;
use crate::flow::{self, Step};
use crate::identities::family;
use crate::ids::{Direction, IfIndex, Nanos, Protocol};
use crate::keys::{AddressKey, EndpointValue, FlowKey, FlowValue};
use crate::mac::Mac;
use crate::maps::{CurrentFlow, Local, PolicyMaps};
use crate::packet::{Packet, PacketBytes, hops_offset};

/// The lowest source port of a client. A datagram from a lower port may be the answer of a Service's backend whose flow was evicted,
/// and such an answer needs conntrack. Linux takes ports of clients from 32768 on (`net.ipv4.ip_local_port_range`).
const FIRST_CLIENT_PORT: u16 = 32_768;

/// Whether a packet, parsed and without IP options, can be the first one of a connection that takes the short cut.
#[inline(always)]
pub(super) fn can_begin(packet: &Packet, view: &View) -> bool {
    match packet.protocol {
        Protocol::TCP => flow::tcp::opens(packet.tcp_flags),
        Protocol::UDP => view.has_no_flow() && packet.src_port.get() >= FIRST_CLIENT_PORT,
        _ => false,
    }
}

/// Whether a packet can be the first one of a connection with a pod of another node. The answer of a Service's backend there cannot,
/// which this node has to translate, and which belongs to no flow that tells: it goes to the port of a client.
#[inline(always)]
fn can_begin_outside(packet: &Packet) -> bool {
    packet.protocol.0 == Protocol::TCP.0 || packet.dst_port.get() < FIRST_CLIENT_PORT
}

/// The interface to which the connection is redirected that this packet begins at the interface `sender`: a pod's, or that of
/// [`PolicyMaps::overlay`]; 0 for none.
#[inline(always)]
pub fn receiver<M: PolicyMaps>(maps: &M, packet: &Packet, sender: IfIndex, now: Nanos) -> IfIndex {
    let none = IfIndex(0);
    let addr = &packet.dst;
    // A pod that forwards may send from addresses whose answers go elsewhere.
    if !maps.owns_address(&AddressKey { ifindex: sender, addr: packet.src }) {
        return none;
    }
    let key = key_at(sender, Direction::Egress, packet);
    let Some(receiver) = maps.owner(addr) else {
        let overlay = maps.overlay(family(addr)).ifindex;
        let begins = overlay.0 != 0
            && can_begin_outside(packet)
            && maps.is_behind_overlay(addr)
            && !takes_usual_way(maps, &key, packet, now);
        return if begins { overlay } else { none };
    };
    if receiver == sender || receiver.0 >= 1 << IfIndex::REDIRECT_BITS {
        return none;
    }
    match maps.endpoint(receiver) {
        // The kernel may have given the element of the address to another one while it was read.
        Some((endpoint, _, _))
            if endpoint.takes_short_cut()
                && maps.owns_address(&AddressKey { ifindex: receiver, addr: *addr })
                && !takes_usual_way(maps, &key, packet, now) =>
        {
            receiver
        }
        _ => none,
    }
}

/// Whether a connection of this pod with the same addresses and ports takes the usual way, so that conntrack may know it.
#[inline(always)]
fn takes_usual_way<M: PolicyMaps>(maps: &M, key: &FlowKey, packet: &Packet, now: Nanos) -> bool {
    let mut flow = FlowValue::UNKNOWN;
    maps.flow(key, &packet.src, &mut flow).is_some()
        && flow.redirect.0 == 0
        && !flow::is_expired(&flow, key.protocol, now)
}

/// The key of the flow to which a packet with ports belongs at this interface.
#[inline(always)]
fn key_at(ifindex: IfIndex, direction: Direction, packet: &Packet) -> FlowKey {
    let (remote, [a, b], [c, d]) = match direction {
        Direction::Ingress => (packet.src, packet.dst_port.0, packet.src_port.0),
        Direction::Egress => (packet.dst, packet.src_port.0, packet.dst_port.0),
    };
    let ports = u32::from_ne_bytes([a, b, c, d]);
    FlowKey::new(ifindex, remote, ports, packet.protocol, FlowKey::AT_POD)
}

/// The MAC address of the pod at the interface `receiver`, if it passes the packet of a connection that is redirected to it by a current
/// flow of its own; else [`Mac::UNKNOWN`].
#[inline(always)]
pub fn receiver_mac<M: PolicyMaps>(
    maps: &M,
    packet: &Packet,
    receiver: IfIndex,
    sender: IfIndex,
    now: Nanos,
) -> Mac {
    let direction = Direction::Ingress;
    let epoch = maps.epoch();
    let step = Step { now, epoch, direction, tcp_flags: packet.tcp_flags };
    match maps.current_flow(&key_at(receiver, direction, packet), None, &step) {
        CurrentFlow::Yes { redirect, .. } if redirect == sender => own_mac(maps, receiver),
        CurrentFlow::Yes { .. } | CurrentFlow::No | CurrentFlow::Absent => Mac::UNKNOWN,
    }
}

/// Whether a frame is addressed to the pod with this MAC address, if it is known.
#[inline(always)]
pub(super) fn is_addressed<B: PacketBytes + ?Sized>(bytes: &B, mac: Mac) -> bool {
    mac != Mac::UNKNOWN && bytes.pod_mac(Direction::Ingress) == Some(mac)
}

/// Whether a frame is addressed to this device, if it is known, and lives long enough to be routed.
#[inline(always)]
pub(super) fn is_routable<B: PacketBytes + ?Sized>(bytes: &B, packet: &Packet, mac: Mac) -> bool {
    is_addressed(bytes, mac)
        && bytes.peek::<u8>(hops_offset(&packet.dst)).is_some_and(|hops| hops > 1)
}

/// The interface, if the frame is addressed to the pod there, or if other nodes' pods are there and it is addressed to the gateway; else 0.
#[inline(always)]
pub(super) fn addressed<M: PolicyMaps, B: PacketBytes + ?Sized>(
    maps: &M,
    bytes: &B,
    packet: &Packet,
    receiver: IfIndex,
) -> IfIndex {
    let none = IfIndex(0);
    if receiver == none {
        return none;
    }
    let overlay = maps.overlay(family(&packet.dst));
    let is_it = if receiver == overlay.ifindex {
        is_routable(bytes, packet, overlay.gateway())
    } else {
        is_addressed(bytes, own_mac(maps, receiver))
    };
    if is_it { receiver } else { none }
}

/// The target of a packet that is redirected to this interface: `of_pod` if it is a pod's.
#[inline(always)]
pub(super) fn target<M: PolicyMaps>(
    maps: &M,
    packet: &Packet,
    redirect: IfIndex,
    of_pod: Target,
) -> Target {
    if redirect == maps.overlay(family(&packet.dst)).ifindex { Target::Overlay } else { of_pod }
}

/// Whether the receiver's flow decides if a packet is redirected: one that neither begins nor ends a connection, and belongs to one
/// itself; and any packet of it that takes the usual way, because it is not addressed to the receiver (`to` is 0).
#[inline(always)]
pub(super) fn is_inner(packet: &Packet, view: &View, to: IfIndex) -> bool {
    view.redirect().0 == 0 && !packet.is_icmp_error() && (to.0 == 0 || !ends_connection(packet))
}

/// Whether a packet ends its TCP connection. Conntrack does not take over a connection with such a packet.
#[inline(always)]
pub(super) const fn ends_connection(packet: &Packet) -> bool {
    packet.tcp_flags & (flow::tcp::FIN | flow::tcp::RST) != 0
}

/// Whether a connection that the sender's flow redirects is redirected for the receiver too. It is not if the receiver's flow has been
/// evicted, a packet has reached the receiver by the usual way, its address is not behind the overlay any more, or `receiver` is 0. Then
/// the sender's flow ends the redirection.
#[inline(always)]
pub fn keeps_redirect<M: PolicyMaps>(
    maps: &M,
    packet: &Packet,
    receiver: IfIndex,
    sender: IfIndex,
) -> bool {
    if receiver.0 != 0
        && receiver == maps.overlay(family(&packet.dst)).ifindex
        && maps.is_behind_overlay(&packet.dst)
    {
        return true;
    }
    let mut flow = FlowValue::UNKNOWN;
    let key = key_at(receiver, Direction::Ingress, packet);
    // An expired flow begins again with this packet.
    if maps.flow(&key, &packet.src, &mut flow).is_some() && flow.redirect == sender {
        return true;
    }
    let key = key_at(sender, Direction::Egress, packet);
    if maps.flow(&key, &packet.src, &mut flow).is_some() {
        flow.redirect = IfIndex(0);
        maps.set_flow(&key, &flow, Local::Kept);
    }
    false
}

number! {
    /// Where a packet goes that has come from a pod of another node.
    pub struct Arrival(pub u32);
}

impl Arrival {
    /// The usual way.
    pub const USUAL: Self = Self(0);
    /// To the hook of the receiver's interface.
    pub const HOOK: Self = Self(1);
    /// To the receiver, which passes it by a current flow.
    pub const POD: Self = Self(2);
}

/// Where a packet to the pod at the interface `receiver` goes that has come through the device `overlay`, parsed and without IP options.
#[inline(always)]
pub fn arrival<M: PolicyMaps>(
    maps: &M,
    packet: &Packet,
    receiver: IfIndex,
    overlay: IfIndex,
    now: Nanos,
) -> Arrival {
    let direction = Direction::Ingress;
    let key = key_at(receiver, direction, packet);
    let opens = flow::tcp::opens(packet.tcp_flags);
    if !opens {
        let step = Step { now, epoch: maps.epoch(), direction, tcp_flags: packet.tcp_flags };
        if let CurrentFlow::Yes { redirect, .. } = maps.current_flow(&key, None, &step) {
            return if redirect == overlay { Arrival::POD } else { Arrival::USUAL };
        }
    }
    let mut flow = FlowValue::UNKNOWN;
    let is_known = maps.flow(&key, &packet.src, &mut flow).is_some();
    let is_live = is_known && !flow::is_expired(&flow, key.protocol, now);
    if is_live && flow.redirect == overlay && ends_connection(packet) {
        return Arrival::HOOK;
    }
    let begins = opens
        || (!is_known
            && packet.protocol.0 == Protocol::UDP.0
            && packet.src_port.get() >= FIRST_CLIENT_PORT
            && can_begin_outside(packet));
    let goes_on = if is_live { flow.redirect == overlay } else { begins };
    // The answers have to leave through the same device.
    if goes_on && takes_short_cut(maps, receiver) && maps.is_behind_overlay(&packet.src) {
        Arrival::HOOK
    } else {
        Arrival::USUAL
    }
}

/// Whether the pod at this interface takes the short cut.
#[inline(always)]
fn takes_short_cut<M: PolicyMaps>(maps: &M, ifindex: IfIndex) -> bool {
    match maps.endpoint(ifindex) {
        Some((endpoint, _, _)) => {
            endpoint.state == EndpointValue::READY && endpoint.takes_short_cut()
        }
        None => false,
    }
}
