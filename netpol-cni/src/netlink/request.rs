//! The messages of rtnetlink that are more than a header.
//!
//! In: plain values. Out: messages for the kernel, and plain values out of its answers. Pure.

use std::net::IpAddr;
use std::os::fd::RawFd;

use ipnetwork::IpNetwork;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

/// A veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct VethPair<'a> {
    /// Name of the end in this namespace.
    pub host_name: &'a str,
    /// Hardware address of that end. Set, not left to chance: udev changes random ones.
    pub host_mac: [u8; 6],
    /// Name of the end in the container.
    pub container_name: &'a str,
    /// The container's namespace.
    pub container_netns: RawFd,
    /// MTU of both ends in bytes. None: the kernel's default.
    pub mtu: Option<u32>,
}

impl VethPair<'_> {
    pub(super) fn to_message(self) -> RouteNetlinkMessage {
        let Self { host_name, host_mac, container_name, container_netns, mtu } = self;
        let mut peer = LinkMessage::default();
        peer.attributes.push(LinkAttribute::IfName(container_name.into()));
        peer.attributes.push(LinkAttribute::NetNsFd(container_netns));
        peer.attributes.extend(mtu.map(LinkAttribute::Mtu));
        let mut host = LinkMessage::default();
        host.attributes.push(LinkAttribute::IfName(host_name.into()));
        host.attributes.push(LinkAttribute::Address(host_mac.into()));
        host.attributes.extend(mtu.map(LinkAttribute::Mtu));
        host.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        RouteNetlinkMessage::NewLink(host)
    }
}

/// A route to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNetwork,
    /// Through which link.
    pub link: u32,
    /// Next hop, taken to be on the link whatever the addresses there. None: the destination itself is on the link.
    pub gateway: Option<IpAddr>,
    /// Path MTU in bytes.
    pub mtu: Option<u32>,
    /// Largest TCP segment to advertise, in bytes.
    pub advmss: Option<u32>,
    /// Metric; the lowest wins.
    pub priority: Option<u32>,
    /// Routing table, if not the main one.
    pub table: Option<u32>,
}

impl Route {
    /// A route with nothing but what every route has.
    pub fn new(destination: IpNetwork, link: u32, gateway: Option<IpAddr>) -> Self {
        Self { destination, link, gateway, mtu: None, advmss: None, priority: None, table: None }
    }

    pub(super) fn to_message(&self) -> RouteNetlinkMessage {
        let Self { destination, link, gateway, mtu, advmss, priority, table } = self;
        let mut message = route_header(*destination);
        message.header.protocol = RouteProtocol::Boot;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Destination(destination.network().into()));
        message.attributes.push(RouteAttribute::Oif(*link));
        match gateway {
            Some(gateway) => {
                message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(*gateway)));
                message.header.flags = RouteFlags::Onlink;
            }
            None => message.header.scope = RouteScope::Link,
        }
        let metrics: Vec<RouteMetric> =
            mtu.map(RouteMetric::Mtu).into_iter().chain(advmss.map(RouteMetric::Advmss)).collect();
        if !metrics.is_empty() {
            message.attributes.push(RouteAttribute::Metrics(metrics));
        }
        message.attributes.extend(priority.map(RouteAttribute::Priority));
        message.attributes.extend(table.map(RouteAttribute::Table));
        RouteNetlinkMessage::NewRoute(message)
    }
}

fn route_header(destination: IpNetwork) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.ip());
    message.header.destination_prefix_length = destination.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message
}

/// Asks for all routes of the destination's family.
pub(super) fn all_routes(destination: IpNetwork) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.ip());
    RouteNetlinkMessage::GetRoute(message)
}

/// The link of a route of the main table, if it is the one to `destination`.
pub(super) fn link_of_route(answer: RouteNetlinkMessage, destination: IpNetwork) -> Option<u32> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    let expected = RouteAttribute::Destination(destination.network().into());
    let is_it = message.header.table == RouteHeader::RT_TABLE_MAIN
        && message.header.destination_prefix_length == destination.prefix()
        && (destination.prefix() == 0 || message.attributes.contains(&expected));
    if !is_it {
        return None;
    }
    message.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Oif(link) = attribute { Some(*link) } else { None }
    })
}

/// An address for a link.
pub(super) fn address(index: u32, address: IpNetwork) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.ip());
    message.header.prefix_len = address.prefix();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes.push(AddressAttribute::Local(address.ip()));
    message.attributes.push(AddressAttribute::Address(address.ip()));
    RouteNetlinkMessage::NewAddress(message)
}

/// Asks for all addresses of both families.
pub(super) fn all_addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

/// The address in the answer, if it is of that link.
pub(super) fn address_of(answer: RouteNetlinkMessage, index: u32) -> Option<IpAddr> {
    let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
    if message.header.index != index {
        return None;
    }
    // IPv6 addresses have no local part unless they have a peer, IPv4 addresses always do.
    let local = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Local(address) = attribute { Some(*address) } else { None }
    });
    let any = || {
        message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Address(address) = attribute { Some(*address) } else { None }
        })
    };
    local.or_else(any)
}

/// A neighbour whose hardware address never changes.
pub(super) fn neighbour(index: u32, address: IpAddr, mac: &[u8]) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    let destination = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.into()));
    RouteNetlinkMessage::NewNeighbour(message)
}

/// Asks for this namespace's number of another.
pub(super) fn namespace_id(fd: u32) -> RouteNetlinkMessage {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(fd));
    RouteNetlinkMessage::GetNsId(message)
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
