//! The node's devices and addresses; the only user of the rtnetlink crate.
//!
//! In: netlink. Out: [`DeviceNews`]: each new veth at once, and a [`Devices`] snapshot at the start and after every change; each
//! change of clsact filters ([`watch_filters`]). Must not: change the node's devices.
//! [`VethReader`] lists the veth pairs of a namespace with their peers. [`PretendDevices`] creates devices for simulations, in a
//! separate network namespace. Blocking requests, also those for clsact filters, are in `netpol-netlink`.

mod filters;
mod overlay;
mod pretend;
mod tunnels;
mod veth;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    BridgePortState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, LinkAttribute,
    LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};
use netpol_common::ids::IfIndex;
use netpol_common::mac::Mac;
use netpol_policy::dataplane::port::Framing;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub use filters::{FilterChange, watch_filters};
pub use netpol_netlink::{CLSACT, Filter, Position, Side, TrafficControl, device_name};
pub use overlay::{LinkFacts, OverlayDevice};
pub use pretend::{Error as PretendError, PretendDevices};
pub use tunnels::Tunnels;
pub use veth::{VethEnd, VethReader};

/// The queueing discipline of a virtual device to which nobody has given another one.
const NO_QUEUE: &str = "noqueue";

/// Time between two snapshots, because changes come in bursts, and a snapshot lists all devices.
const PAUSE: Duration = Duration::from_millis(200);

/// A change of the node's devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceNews {
    /// A veth whose peer is in another network namespace has appeared, or has got its carrier: the interface of a pod, or of
    /// another container.
    Veth {
        /// Its index.
        ifindex: IfIndex,
        /// The device.
        device: Device,
    },
    /// All devices.
    All(Devices),
}

/// The devices and addresses of the node, without loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// All devices.
    pub by_ifindex: BTreeMap<IfIndex, Device>,
    /// All addresses of all devices.
    pub addresses: BTreeSet<IpAddr>,
    /// Those of them that IPVS holds for Services.
    pub of_ipvs: BTreeSet<IpAddr>,
    /// The tunnels to other nodes.
    pub tunnels: Tunnels,
    /// The vxlan devices that lead to the pods of other nodes, by family ([`netpol_common::identities::family`]).
    pub overlays: BTreeMap<u32, OverlayDevice>,
    /// The other devices with networks behind gateways, with the family. Some of the networks may be those of pods of other nodes.
    pub with_gateways: Vec<(u32, OverlayDevice)>,
    /// The bridges.
    pub bridges: BTreeMap<IfIndex, LinkFacts>,
}

/// One network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Where its packets go.
    pub leads: Leads,
    /// Whether it has an address that is not link-local.
    pub has_address: bool,
    /// Whether it is administratively up.
    pub is_up: bool,
    /// Whether it can pass packets: of a veth, both ends are up.
    pub has_carrier: bool,
    /// First header of its frames.
    pub framing: Framing,
    /// The bridge past which packets can be redirected to it and from it.
    pub short_cut: Result<IfIndex, Obstacle>,
}

/// What keeps packets of a pod from being redirected past the bridge, because it would be passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Obstacle {
    /// The interface is no port of a bridge.
    NoBridge,
    /// Its bridge does not forward every packet to it and from it: the port is isolated or not forwarding, the bridge filters VLANs, or
    /// it is not the bridge of most pods.
    Bridge,
    /// Its MTU differs from that of its bridge.
    Mtu,
    /// It has a queueing discipline, as a bandwidth limit needs.
    Queue,
    /// It has an XDP program, or a traffic control program of others.
    Program,
}

/// Where the packets of a device go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// To a port of a bridge, and they arrive there: it is a bridge, or a VLAN or other device on top of one.
    ToPorts,
    /// Into another network namespace: it is a veth.
    ToNamespace,
    /// Elsewhere.
    Away,
}

/// Whose routes are read, of which a node can have very many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutesOf {
    /// All of them if there is a tunnel to other nodes, else none.
    Tunnels,
    /// All of them, for [`Devices::with_gateways`] too.
    Gateways,
}

/// Errors of netlink.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket could be opened.
    #[error("cannot open a netlink socket")]
    Connect(#[source] std::io::Error),
    /// The kernel refuses to list devices or addresses.
    #[error("cannot list the node's {what}")]
    List {
        /// `devices`, `addresses`, `routes` or `neighbours`.
        what: &'static str,
        /// The error of the kernel.
        #[source]
        source: rtnetlink::Error,
    },
    /// The kernel sends no more notifications.
    #[error("cannot receive the kernel's notifications about filters")]
    Notifications(#[source] std::io::Error),
    /// The kernel refuses to list the veth pairs of a network namespace.
    #[error("cannot list the veth pairs of a network namespace")]
    ListVeths(#[source] std::io::Error),
}

/// Sends a snapshot of the devices now and after every change, and each new veth without delay, until `cancel` is cancelled or
/// the receiver is dropped.
///
/// # Errors
/// Netlink cannot be used at all. Later failures are logged, and the next change tries again.
pub async fn watch(
    routes: RoutesOf,
    out: mpsc::Sender<DeviceNews>,
    cancel: CancellationToken,
) -> Result<(), Error> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        // Networks add a route for each node that joins.
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        // Queueing disciplines.
        MulticastGroup::Tc,
    ];
    let (connection, handle, mut news) =
        new_multicast_connection(&groups).map_err(Error::Connect)?;
    let connection = tokio::spawn(connection);
    let mut latest = read(&handle, routes).await?;
    let mut told = veths(&latest);
    let mut next_read = Instant::now();
    let mut is_stale = false;
    if out.send(DeviceNews::All(latest)).await.is_err() {
        return Ok(());
    }
    loop {
        let sent = tokio::select! {
            () = cancel.cancelled() => break,
            message = news.next() => {
                let Some((message, _kernel)) = message else { break };
                is_stale = true;
                let Some((ifindex, device)) = veth_news(&handle, &message, &told).await else {
                    continue;
                };
                told.insert(ifindex, device.has_carrier);
                out.send(DeviceNews::Veth { ifindex, device }).await
            }
            () = sleep_until(next_read), if is_stale => {
                is_stale = false;
                next_read = Instant::now() + PAUSE;
                latest = match read(&handle, routes).await {
                    Ok(now) => now,
                    Err(error) => {
                        warn!(%error, "cannot read the node's devices, the last snapshot stays in use");
                        continue;
                    }
                };
                told = veths(&latest);
                // Also if nothing changed, because a device that came and went meanwhile may have left pins.
                out.send(DeviceNews::All(latest)).await
            }
        };
        if sent.is_err() {
            break;
        }
    }
    connection.abort();
    Ok(())
}

/// The devices that lead into other namespaces, and whether they have their carrier.
fn veths(devices: &Devices) -> BTreeMap<IfIndex, bool> {
    let leading =
        devices.by_ifindex.iter().filter(|(_, device)| device.leads == Leads::ToNamespace);
    leading.map(|(ifindex, device)| (*ifindex, device.has_carrier)).collect()
}

/// The veth that a message is about, if it leads into another namespace, and is new or has got its carrier.
async fn veth_news(
    handle: &Handle,
    message: &NetlinkMessage<RouteNetlinkMessage>,
    told: &BTreeMap<IfIndex, bool>,
) -> Option<(IfIndex, Device)> {
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = &message.payload else {
        return None;
    };
    let ifindex = IfIndex(link.header.index);
    if !is_veth(link) {
        return None;
    }
    let found = device(link);
    match told.get(&ifindex) {
        Some(had_carrier) if *had_carrier || !found.has_carrier => return None,
        Some(_) => return Some((ifindex, found)),
        None if found.leads == Leads::ToNamespace => return Some((ifindex, found)),
        None => {}
    }
    // The first message about one end of a pair is sent before the pair is complete.
    let answer = handle.link().get().match_index(ifindex.0).execute().try_next().await;
    let found = match answer {
        Ok(link) => device(&link?),
        Err(error) => {
            debug!(%ifindex, %error, "new device not read");
            return None;
        }
    };
    (found.leads == Leads::ToNamespace).then_some((ifindex, found))
}

async fn read(handle: &Handle, wanted: RoutesOf) -> Result<Devices, Error> {
    let links: Vec<LinkMessage> = handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|source| Error::List { what: "devices", source })?;
    let mut devices = Devices::default();
    let (mut loopback, mut ipvs) = (BTreeSet::new(), BTreeSet::new());
    let on_bridges = on_bridges(&links);
    devices.tunnels = tunnels::of_devices(&links);
    let bridges = bridges(&links);
    for link in &links {
        if is_kind(link, &InfoKind::Bridge) {
            devices.bridges.insert(IfIndex(link.header.index), LinkFacts::of(link));
        }
        if link.header.link_layer_type == LinkLayerType::Loopback {
            loopback.insert(link.header.index);
        } else {
            if is_ipvs(link) {
                ipvs.insert(link.header.index);
            }
            let mut device = device(link);
            device.short_cut = short_cut(link, &bridges);
            if on_bridges.contains(&link.header.index) {
                device.leads = Leads::ToPorts;
            }
            devices.by_ifindex.insert(IfIndex(link.header.index), device);
        }
    }
    let mut addresses = handle.address().get().execute();
    while let Some(message) =
        addresses.try_next().await.map_err(|source| Error::List { what: "addresses", source })?
    {
        let Some(address) = address_of(&message) else { continue };
        if loopback.contains(&message.header.index) {
            continue;
        }
        devices.addresses.insert(address);
        if ipvs.contains(&message.header.index) {
            devices.of_ipvs.insert(address);
        }
        devices.tunnels.ends.extend(tunnels::broadcasts_of(&message));
        if let Some(device) = devices.by_ifindex.get_mut(&IfIndex(message.header.index)) {
            device.has_address |= !is_link_local(address);
        }
    }
    let mut routes = overlay::Routes::default();
    if wanted == RoutesOf::Gateways || !devices.tunnels.devices.is_empty() {
        devices.tunnels.add_remote_ends(handle, |route| routes.add(route)).await?;
    }
    devices.overlays = overlay::devices(&links, &routes);
    devices.with_gateways = overlay::with_gateways(&links, &routes);
    Ok(devices)
}

/// Whether the device holds the addresses of Services for IPVS: those of kube-proxy and kube-router. IPVS translates the ports of these
/// Services, and the node receives the others.
fn is_ipvs(link: &LinkMessage) -> bool {
    let is_it = |name: &String| matches!(name.as_str(), "kube-ipvs0" | "kube-dummy-if");
    link.attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::IfName(name) if is_it(name)))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The devices on top of a bridge, or on top of such a device. The peer of a veth is not below a device.
fn on_bridges(links: &[LinkMessage]) -> BTreeSet<u32> {
    let index = |link: &LinkMessage| link.header.index;
    let bridges = links.iter().filter(|link| is_kind(link, &InfoKind::Bridge));
    let mut found: BTreeSet<u32> = bridges.map(index).collect();
    loop {
        let on_one = |link: &&LinkMessage| {
            let is_elsewhere =
                |other: &LinkAttribute| matches!(other, LinkAttribute::LinkNetNsId(_));
            !is_kind(link, &InfoKind::Veth)
                && !link.attributes.iter().any(is_elsewhere)
                && link.attributes.iter().any(
                    |other| matches!(other, LinkAttribute::Link(below) if found.contains(below)),
                )
        };
        let more: BTreeSet<u32> = links.iter().filter(on_one).map(index).collect();
        if more.is_subset(&found) {
            return found;
        }
        found.extend(more);
    }
}

/// The device's own address in a message.
fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    // On a point-to-point device `Address` is the peer's; `Local` is always the device's own.
    let local = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Local(address) = attribute { Some(*address) } else { None }
    });
    let only = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Address(address) = attribute { Some(*address) } else { None }
    });
    local.or(only)
}

fn device(link: &LinkMessage) -> Device {
    let mut device = Device {
        name: String::new(),
        leads: if is_kind(link, &InfoKind::Bridge) { Leads::ToPorts } else { Leads::Away },
        has_address: false,
        is_up: link.header.flags.contains(LinkFlags::Up),
        has_carrier: link.header.flags.contains(LinkFlags::LowerUp),
        framing: if link.header.link_layer_type == LinkLayerType::Ether {
            Framing::Ethernet
        } else {
            Framing::L3
        },
        short_cut: Err(Obstacle::NoBridge),
    };
    for attribute in &link.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            device.name.clone_from(name);
        } else if let LinkAttribute::LinkNetNsId(_) = attribute
            && is_veth(link)
        {
            device.leads = Leads::ToNamespace;
        }
    }
    device
}

/// A bridge, as far as its ports take the short cut.
#[derive(Clone, Copy)]
struct BridgeFacts {
    mtu: Option<u32>,
    filters_vlans: bool,
}

/// The bridges, by index.
fn bridges(links: &[LinkMessage]) -> BTreeMap<u32, BridgeFacts> {
    let bridges = links.iter().filter(|link| is_kind(link, &InfoKind::Bridge));
    let filters = |info: &LinkInfo| {
        matches!(info, LinkInfo::Data(InfoData::Bridge(facts))
            if facts.iter().any(|fact| matches!(fact, InfoBridge::VlanFiltering(true))))
    };
    let facts = |link: &LinkMessage| BridgeFacts {
        mtu: mtu(link),
        filters_vlans: infos(link).any(filters),
    };
    bridges.map(|link| (link.header.index, facts(link))).collect()
}

/// Whether a port is isolated from others, or not forwarding.
fn is_restricted(link: &LinkMessage) -> bool {
    let restricts = |fact: &InfoBridgePort| {
        if let InfoBridgePort::State(state) = fact {
            *state != BridgePortState::Forwarding
        } else {
            matches!(fact, InfoBridgePort::Isolated(true))
        }
    };
    infos(link).any(|info| {
        matches!(info, LinkInfo::PortData(InfoPortData::BridgePort(facts)) if facts.iter().any(restricts))
    })
}

fn infos(link: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    link.attributes.iter().flat_map(|attribute| {
        if let LinkAttribute::LinkInfo(infos) = attribute { infos.as_slice() } else { &[] }
    })
}

fn mtu(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::Mtu(mtu) = attribute { Some(*mtu) } else { None }
    })
}

/// The bridge of this veth, if packets can be redirected past it.
fn short_cut(
    link: &LinkMessage,
    bridges: &BTreeMap<u32, BridgeFacts>,
) -> Result<IfIndex, Obstacle> {
    let bridge = link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::Controller(bridge) = attribute {
            Some((*bridge, *bridges.get(bridge)?))
        } else {
            None
        }
    });
    let Some((bridge, facts)) = bridge.filter(|_| is_veth(link)) else {
        return Err(Obstacle::NoBridge);
    };
    if facts.filters_vlans || is_restricted(link) {
        return Err(Obstacle::Bridge);
    }
    if mtu(link) != facts.mtu {
        return Err(Obstacle::Mtu);
    }
    if is_queued(link) {
        return Err(Obstacle::Queue);
    }
    if has_xdp(link) { Err(Obstacle::Program) } else { Ok(IfIndex(bridge)) }
}

/// Whether somebody has given a device a queueing discipline.
fn is_queued(link: &LinkMessage) -> bool {
    link.attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::Qdisc(kind) if kind != NO_QUEUE))
}

/// Whether a device has an XDP program.
fn has_xdp(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| {
        let LinkAttribute::Xdp(xdp) = attribute else { return false };
        let is_attached = |item: &LinkXdp| matches!(item, LinkXdp::Attached(attached) if *attached != XdpAttached::None);
        xdp.iter().any(is_attached)
    })
}

/// The MAC address of a device.
fn mac(link: &LinkMessage) -> Mac {
    let octets = link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::Address(bytes) = attribute {
            bytes.as_slice().try_into().ok()
        } else {
            None
        }
    });
    octets.map_or(Mac::UNKNOWN, Mac::new)
}

fn is_veth(link: &LinkMessage) -> bool {
    is_kind(link, &InfoKind::Veth)
}

fn is_kind(link: &LinkMessage, kind: &InfoKind) -> bool {
    link.attributes.iter().any(|attribute| {
        if let LinkAttribute::LinkInfo(info) = attribute {
            info.iter().any(|item| matches!(item, LinkInfo::Kind(found) if found == kind))
        } else {
            false
        }
    })
}
