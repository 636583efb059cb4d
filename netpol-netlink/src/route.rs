//! Routes: the messages that add and list them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteScope, RouteType,
};
use netpol_common::ids::IfIndex;

use crate::address::family;

/// A route to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination network.
    pub destination: IpNetwork,
    /// Outgoing link.
    pub link: IfIndex,
    /// Next hop, on the link whatever addresses the link has (`onlink`). `None`: the destination itself is on the link.
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
    /// A route without the optional attributes.
    pub fn new(destination: IpNetwork, link: IfIndex, gateway: Option<IpAddr>) -> Self {
        Self { destination, link, gateway, mtu: None, advmss: None, priority: None, table: None }
    }

    /// The message that adds the route.
    pub(crate) fn to_message(&self) -> RouteNetlinkMessage {
        let Self { destination, link, gateway, mtu, advmss, priority, table } = self;
        let mut message = route_header(*destination);
        message.header.protocol = RouteProtocol::Boot;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Destination(destination.network().into()));
        message.attributes.push(RouteAttribute::Oif(link.0));
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

/// The request for all routes of the destination's family.
pub(crate) fn all_routes(destination: IpNetwork) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.ip());
    RouteNetlinkMessage::GetRoute(message)
}

/// The link of a route of the main table, if it is the one to `destination`.
pub(crate) fn link_of_route(
    answer: RouteNetlinkMessage,
    destination: IpNetwork,
) -> Option<IfIndex> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    let expected = RouteAttribute::Destination(destination.network().into());
    let is_match = message.header.table == RouteHeader::RT_TABLE_MAIN
        && message.header.destination_prefix_length == destination.prefix()
        && (destination.prefix() == 0 || message.attributes.contains(&expected));
    if !is_match {
        return None;
    }
    message.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Oif(link) = attribute { Some(IfIndex(*link)) } else { None }
    })
}
