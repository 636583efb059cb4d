//! Addresses, neighbours and namespace ids: their messages.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netpol_common::ids::IfIndex;

/// The message that adds an address to a link, usable at once (without duplicate address detection).
pub(crate) fn address(index: IfIndex, address: IpNetwork) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.ip());
    message.header.prefix_len = address.prefix();
    message.header.index = index.0;
    message.header.scope = AddressScope::Universe;
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes.push(AddressAttribute::Local(address.ip()));
    message.attributes.push(AddressAttribute::Address(address.ip()));
    RouteNetlinkMessage::NewAddress(message)
}

/// The request for all addresses of both families.
pub(crate) fn all_addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

/// The request for the IPv6 addresses of a link, in the namespace with this id.
pub(crate) fn addresses_v6(index: IfIndex, namespace: Option<i32>) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.index = index.0;
    message.attributes.extend(namespace.map(AddressAttribute::TargetNetNsId));
    RouteNetlinkMessage::GetAddress(message)
}

/// The link and the address in an answer; `None` for other messages.
pub(crate) fn from_answer(answer: RouteNetlinkMessage) -> Option<(IfIndex, IpAddr)> {
    let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
    // `Local` is always the link's own address. On a point-to-point link `Address` is the peer's; IPv6 addresses without a
    // peer have only `Address`.
    let local = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Local(address) = attribute { Some(*address) } else { None }
    });
    let any = || {
        message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Address(address) = attribute { Some(*address) } else { None }
        })
    };
    Some((IfIndex(message.header.index), local.or_else(any)?))
}

/// The message that adds a permanent neighbour.
pub(crate) fn neighbour(index: IfIndex, address: IpAddr, mac: &[u8]) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index.0;
    message.header.state = NeighbourState::Permanent;
    let destination = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.into()));
    RouteNetlinkMessage::NewNeighbour(message)
}

/// The request for this namespace's id of the namespace that `fd` refers to.
pub(crate) fn namespace_id(fd: u32) -> RouteNetlinkMessage {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(fd));
    RouteNetlinkMessage::GetNsId(message)
}

/// The id in an answer; `None` for other messages and if the namespace has no id.
pub(crate) fn namespace_id_of(answer: RouteNetlinkMessage) -> Option<i32> {
    let RouteNetlinkMessage::NewNsId(message) = answer else { return None };
    message.attributes.iter().find_map(|attribute| {
        // -1 means that the namespace has no id.
        if let NsidAttribute::Id(id @ 0..) = attribute { Some(*id) } else { None }
    })
}

/// The address family.
pub(crate) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
