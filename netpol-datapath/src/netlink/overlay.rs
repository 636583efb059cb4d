//! The devices that lead to the pods of other nodes, with the networks that the node's main table routes through them: vxlan devices, as
//! Flannel makes one for each family, and devices with gateways, as the other nodes are with its backend host-gw.
#![expect(clippy::wildcard_enum_match_arm, reason = "devices and routes have dozens of attributes")]

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::link::{InfoKind, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netpol_common::identities::{N_FAMILIES, family};
use netpol_common::ids::IfIndex;
use netpol_common::keys::PrefixKey;
use netpol_common::mac::Mac;

use super::tunnels::address;
use super::{has_xdp, is_kind, is_queued, mac, mtu};

/// A device that leads to other networks, for one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayDevice {
    /// Its index.
    pub ifindex: IfIndex,
    /// Its own facts.
    pub facts: LinkFacts,
    /// The networks behind it, without those of which a part is routed elsewhere.
    pub prefixes: BTreeSet<PrefixKey>,
}

/// What packets have to fit on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// Its MAC address, [`Mac::UNKNOWN`] if it has none.
    pub mac: Mac,
    /// Its MTU, 0 if it has none.
    pub mtu: u32,
    /// Whether it has an XDP program.
    pub has_xdp: bool,
    /// Whether it has a queueing discipline.
    pub is_queued: bool,
}

impl LinkFacts {
    pub(super) fn of(link: &LinkMessage) -> Self {
        Self {
            mac: mac(link),
            mtu: mtu(link).unwrap_or(0),
            has_xdp: has_xdp(link),
            is_queued: is_queued(link),
        }
    }
}

/// The routes of the main table.
#[derive(Debug, Default)]
pub(super) struct Routes(Vec<Route>);

/// A route to a network.
#[derive(Clone, Copy, Debug)]
struct Route {
    network: PrefixKey,
    /// The device, if there is one.
    device: Option<IfIndex>,
    hops: Hops,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hops {
    /// To a gateway that forwards.
    Gateway,
    /// The network is on the link, or not reachable.
    None,
}

impl Routes {
    /// Adds a route.
    pub(super) fn add(&mut self, route: &RouteMessage) {
        let (mut table, mut network) = (u32::from(route.header.table), None);
        let (mut device, mut has_gateway) = (None, false);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Destination(found) => network = address(found),
                RouteAttribute::Oif(found) => device = Some(IfIndex(*found)),
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => has_gateway = true,
                _ => {}
            }
        }
        // The default routes have no network.
        let Some(network) = network.filter(|_| table == u32::from(RouteHeader::RT_TABLE_MAIN))
        else {
            return;
        };
        let is_unicast = route.header.kind == RouteType::Unicast;
        self.0.push(Route {
            network: PrefixKey::of_network(network, route.header.destination_prefix_length),
            device: device.filter(|_| is_unicast),
            hops: if has_gateway { Hops::Gateway } else { Hops::None },
        });
    }
}

/// The vxlan device of each family that leads to the most networks.
pub(super) fn devices(links: &[LinkMessage], routes: &Routes) -> BTreeMap<u32, OverlayDevice> {
    let candidates: Vec<_> = links.iter().filter(|link| is_kind(link, &InfoKind::Vxlan)).collect();
    let of_family = |wanted| {
        let found = candidates.iter().filter_map(|link| device(link, routes, wanted));
        Some((wanted, found.max_by_key(|device| (device.prefixes.len(), device.ifindex))?))
    };
    (0..N_FAMILIES).filter_map(of_family).collect()
}

/// The other devices with frames that have networks behind gateways, each for its families.
pub(super) fn with_gateways(links: &[LinkMessage], routes: &Routes) -> Vec<(u32, OverlayDevice)> {
    let through_gateways = routes.0.iter().filter(|route| route.hops == Hops::Gateway);
    let with_some: BTreeSet<IfIndex> = through_gateways.filter_map(|route| route.device).collect();
    let candidates = links.iter().filter(|link| {
        with_some.contains(&IfIndex(link.header.index))
            && !is_kind(link, &InfoKind::Vxlan)
            && mac(link) != Mac::UNKNOWN
    });
    let of_link = |link| {
        (0..N_FAMILIES).filter_map(move |wanted| Some((wanted, device(link, routes, wanted)?)))
    };
    candidates.flat_map(of_link).collect()
}

/// A device for one family; `None` if it leads to no network.
fn device(link: &LinkMessage, routes: &Routes, wanted: u32) -> Option<OverlayDevice> {
    let ifindex = IfIndex(link.header.index);
    let prefixes = networks(routes, ifindex, wanted);
    let device = OverlayDevice { ifindex, facts: LinkFacts::of(link), prefixes };
    (!device.prefixes.is_empty()).then_some(device)
}

/// The networks of a family that are routed through a device as a whole.
fn networks(routes: &Routes, device: IfIndex, wanted: u32) -> BTreeSet<PrefixKey> {
    let routes = routes.0.iter().filter(|route| family(&route.network.addr) == wanted);
    let (own, others): (Vec<&Route>, Vec<_>) =
        routes.partition(|route| route.device == Some(device));
    let own = own.into_iter().filter(|route| route.hops == Hops::Gateway);
    let mut networks: BTreeSet<PrefixKey> = own.map(|route| route.network).collect();
    for other in others {
        for len in 0..=other.network.prefix_len_bits {
            networks.remove(&PrefixKey::containing(other.network.addr, len));
        }
    }
    networks
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn key(network: &str, len: u32) -> PrefixKey {
        PrefixKey::containing(network.parse::<IpAddr>().unwrap().into(), len)
    }

    #[test]
    fn networks_of_which_a_part_is_routed_elsewhere_are_left_out() {
        let (flannel, uplink) = (IfIndex(5), IfIndex(2));
        let route =
            |network: &str, len, device, hops| Route { network: key(network, len), device, hops };
        let routes = Routes(vec![
            route("10.244.1.0", 120, Some(flannel), Hops::Gateway),
            route("10.244.1.0", 128, Some(flannel), Hops::None),
            route("10.244.2.0", 120, Some(flannel), Hops::Gateway),
            route("10.244.2.7", 128, Some(uplink), Hops::None),
            route("10.244.3.0", 120, Some(flannel), Hops::Gateway),
            // Several next hops, or an unreachable network.
            route("10.244.3.0", 120, None, Hops::None),
            route("10.0.0.0", 104, Some(uplink), Hops::Gateway),
            route("198.51.100.0", 120, Some(uplink), Hops::Gateway),
            route("fd00:1::", 64, Some(flannel), Hops::Gateway),
        ]);
        assert_eq!(networks(&routes, flannel, 0), [key("10.244.1.0", 120)].into());
        assert_eq!(networks(&routes, flannel, 1), [key("fd00:1::", 64)].into());
        assert_eq!(networks(&routes, uplink, 0), [key("198.51.100.0", 120)].into());
        assert_eq!(networks(&routes, IfIndex(9), 0), BTreeSet::new());
    }
}
