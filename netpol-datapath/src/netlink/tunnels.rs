//! The tunnels between this node and others: their ports, and the addresses at which nodes receive tunnelled packets.
//!
//! In: the devices, routes and forwarding entries that the network of the cluster has made, whichever network it is. So no right on
//! Node objects is needed, and it is known at once where packets are sent to.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "devices, routes and neighbours have dozens of attributes"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoGeneve, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::Error;

/// The ports on which Flannel's kinds of `WireGuard` devices listen by default, and most others. The kernel reports ports of such
/// devices by another interface only.
const WIREGUARD_PORTS: [u16; 2] = [51820, 51821];
/// The port of Flannel's UDP backend.
const FLANNEL_UDP_PORT: u16 = 8285;

/// The tunnels between this node and others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// UDP ports.
    pub ports: BTreeSet<u16>,
    /// Addresses at which nodes receive tunnelled packets, besides those of their devices that are known otherwise.
    pub ends: BTreeSet<IpAddr>,
    /// Indexes of the devices.
    pub devices: BTreeSet<u32>,
}

/// The tunnels that these devices are the ends of.
pub(super) fn of_devices(links: &[LinkMessage]) -> Tunnels {
    let mut tunnels = Tunnels::default();
    for link in links {
        let infos = link.attributes.iter().filter_map(|attribute| {
            if let LinkAttribute::LinkInfo(infos) = attribute { Some(infos) } else { None }
        });
        for info in infos.flatten() {
            let is_tunnel = match info {
                LinkInfo::Data(InfoData::Vxlan(facts)) => {
                    tunnels.ports.extend(facts.iter().filter_map(|fact| match fact {
                        InfoVxlan::Port(port) => Some(*port),
                        _ => None,
                    }));
                    true
                }
                LinkInfo::Data(InfoData::Geneve(facts)) => {
                    tunnels.ports.extend(facts.iter().filter_map(|fact| match fact {
                        InfoGeneve::Port(port) => Some(*port),
                        _ => None,
                    }));
                    true
                }
                LinkInfo::Kind(InfoKind::Wireguard) => {
                    tunnels.ports.extend(WIREGUARD_PORTS);
                    true
                }
                LinkInfo::Kind(InfoKind::Tun) if is_flannels(link) => {
                    tunnels.ports.insert(FLANNEL_UDP_PORT);
                    true
                }
                LinkInfo::Kind(kind) => matches!(
                    kind,
                    InfoKind::IpIp
                        | InfoKind::Ip6Tnl
                        | InfoKind::SitTun
                        | InfoKind::GreTun
                        | InfoKind::GreTun6
                        | InfoKind::GreTap
                        | InfoKind::GreTap6
                ),
                _ => false,
            };
            if is_tunnel {
                tunnels.devices.insert(link.header.index);
            }
        }
    }
    tunnels
}

/// Whether the name is one that flanneld gives its devices.
fn is_flannels(link: &LinkMessage) -> bool {
    let is_name = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(name) if name.starts_with("flannel"));
    link.attributes.iter().any(is_name)
}

/// The addresses by which a device receives broadcasts. Kernels before 5.14 take the first address of a network for one too.
pub(super) fn broadcasts_of(message: &AddressMessage) -> Vec<IpAddr> {
    let own = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(own)) => Some(*own),
        _ => None,
    });
    let len = u32::from(message.header.prefix_len);
    let mask = u32::MAX.checked_shl(32 - len.min(32)).unwrap_or(0);
    let of_network = own.filter(|_| len < 31).map(u32::from);
    let by_mask = of_network.into_iter().flat_map(|own| [own & mask, own | !mask]);
    let set = message.attributes.iter().filter_map(|attribute| match attribute {
        AddressAttribute::Broadcast(address) => Some(u32::from(*address)),
        _ => None,
    });
    by_mask.chain(set).map(|address| IpAddr::V4(Ipv4Addr::from(address))).collect()
}

impl Tunnels {
    /// Adds what the devices' routes and forwarding entries say of other nodes, and shows each route of the node to `look`.
    ///
    /// # Errors
    /// The kernel refuses to list them.
    pub(super) async fn add_remote_ends(
        &mut self,
        handle: &Handle,
        mut look: impl FnMut(&RouteMessage),
    ) -> Result<(), Error> {
        let of_ipv4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let of_ipv6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for question in [of_ipv4, of_ipv6] {
            let mut routes = Box::pin(handle.route().get(question).execute());
            let failed = |source| Error::List { what: "routes", source };
            while let Some(route) = routes.try_next().await.map_err(failed)? {
                self.add_route(&route);
                look(&route);
            }
        }
        let entries = handle.neighbours().get().set_address_family(AddressFamily::Bridge).execute();
        let mut entries = Box::pin(entries);
        let failed = |source| Error::List { what: "neighbours", source };
        while let Some(entry) = entries.try_next().await.map_err(failed)? {
            if self.devices.contains(&entry.header.ifindex) {
                self.ends.extend(entry.attributes.iter().filter_map(|attribute| match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(end)) => {
                        Some(IpAddr::V4(*end))
                    }
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(end)) => {
                        Some(IpAddr::V6(*end))
                    }
                    // The family of the message is that of bridges.
                    NeighbourAttribute::Destination(NeighbourAddress::Other(end)) => {
                        let v4 = <[u8; 4]>::try_from(end.as_slice()).map(IpAddr::from);
                        v4.or_else(|_| <[u8; 16]>::try_from(end.as_slice()).map(IpAddr::from)).ok()
                    }
                    _ => None,
                }));
            }
        }
        Ok(())
    }

    /// A route through a tunnel to the pods of a node: the gateway is an address of the node, and so are the first two of the pods'
    /// network, which Flannel and most others give to the tunnel and the bridge.
    fn add_route(&mut self, route: &RouteMessage) {
        let find = |wanted: fn(&RouteAttribute) -> Option<IpAddr>| {
            route.attributes.iter().find_map(wanted)
        };
        let device = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(device) => Some(*device),
            _ => None,
        });
        if device.is_none_or(|device| !self.devices.contains(&device)) {
            return;
        }
        let gateway = find(|attribute| match attribute {
            RouteAttribute::Gateway(gateway) => address(gateway),
            _ => None,
        });
        self.ends.extend(gateway);
        let network = find(|attribute| match attribute {
            RouteAttribute::Destination(network) => address(network),
            _ => None,
        });
        self.ends.extend(network);
        match network {
            Some(IpAddr::V4(first)) if route.header.destination_prefix_length < 31 => {
                self.ends.insert(Ipv4Addr::from(u32::from(first).saturating_add(1)).into());
            }
            Some(IpAddr::V6(first)) if route.header.destination_prefix_length < 127 => {
                self.ends.insert(Ipv6Addr::from(u128::from(first).saturating_add(1)).into());
            }
            _ => {}
        }
    }
}

pub(super) fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
