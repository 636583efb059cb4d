//! The node's devices and addresses; the only user of the rtnetlink crate.
//!
//! In: netlink. Out: a [`Devices`] snapshot at the start and after every change; each change of clsact filters
//! ([`watch_filters`]). Must not: change the node's devices.
//! [`VethReader`] lists the veth pairs of a namespace with their peers. [`PretendDevices`] creates devices for simulations, in a
//! separate network namespace. Blocking requests, also those for clsact filters, are in `netpol-netlink`.

mod filters;
mod pretend;
mod tunnels;
mod veth;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netpol_common::ids::IfIndex;
use netpol_policy::dataplane::port::Framing;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use filters::{FilterChange, watch_filters};
pub use netpol_netlink::{CLSACT, Filter, Position, Side, TrafficControl, device_name};
pub use pretend::{Error as PretendError, PretendDevices};
pub use tunnels::Tunnels;
pub use veth::{VethEnd, VethReader};

/// Time without a change before the devices are read again, so that an ADD in progress has reached the agent.
const QUIET: Duration = Duration::from_millis(200);
/// Longest time that changes delay the next read.
const PATIENCE: Duration = Duration::from_secs(2);

/// The devices and addresses of the node, without loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// All devices.
    pub by_ifindex: BTreeMap<IfIndex, Device>,
    /// All addresses of all devices.
    pub addresses: BTreeSet<IpAddr>,
    /// The tunnels to other nodes.
    pub tunnels: Tunnels,
}

/// One network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Whether it is a bridge, or a VLAN or other device on top of one: its packets leave and arrive through a port of the bridge.
    pub is_bridge: bool,
    /// Whether it is administratively up.
    pub is_up: bool,
    /// First header of its frames.
    pub framing: Framing,
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

/// Sends a snapshot of the devices now and after every change, until `cancel` is cancelled or the receiver is dropped.
///
/// # Errors
/// Netlink cannot be used at all. Later failures are logged, and the next change tries again.
pub async fn watch(out: mpsc::Sender<Devices>, cancel: CancellationToken) -> Result<(), Error> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        // Networks add a route for each node that joins.
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, handle, mut news) =
        new_multicast_connection(&groups).map_err(Error::Connect)?;
    let connection = tokio::spawn(connection);
    if out.send(read(&handle).await?).await.is_err() {
        return Ok(());
    }
    loop {
        let Some(Some(_)) = cancel.run_until_cancelled(news.next()).await else { break };
        // Changes come in bursts: the devices are read once, after the burst.
        let burst = async { while let Ok(Some(_)) = timeout(QUIET, news.next()).await {} };
        // The burst ended, or it has lasted for PATIENCE.
        drop(timeout(PATIENCE, burst).await);
        match read(&handle).await {
            // Also if nothing changed, because a device that came and went meanwhile may have left pins.
            Ok(now) => {
                if out.send(now).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                warn!(%error, "cannot read the node's devices, the last snapshot stays in use");
            }
        }
    }
    connection.abort();
    Ok(())
}

async fn read(handle: &Handle) -> Result<Devices, Error> {
    let links: Vec<LinkMessage> = handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|source| Error::List { what: "devices", source })?;
    let mut devices = Devices::default();
    let mut loopback = BTreeSet::new();
    let on_bridges = on_bridges(&links);
    devices.tunnels = tunnels::of_devices(&links);
    for link in links {
        if link.header.link_layer_type == LinkLayerType::Loopback {
            loopback.insert(link.header.index);
        } else {
            let mut device = device(&link);
            device.is_bridge |= on_bridges.contains(&link.header.index);
            devices.by_ifindex.insert(IfIndex(link.header.index), device);
        }
    }
    let mut addresses = handle.address().get().execute();
    while let Some(message) =
        addresses.try_next().await.map_err(|source| Error::List { what: "addresses", source })?
    {
        if loopback.contains(&message.header.index) {
            continue;
        }
        devices.addresses.extend(address_of(&message));
        devices.tunnels.ends.extend(tunnels::broadcasts_of(&message));
    }
    devices.tunnels.add_remote_ends(handle).await?;
    Ok(devices)
}

/// The devices on top of a bridge, or on top of such a device. The peer of a veth is not below a device.
fn on_bridges(links: &[LinkMessage]) -> BTreeSet<u32> {
    let is_kind = |link: &LinkMessage, kind: &InfoKind| {
        link.attributes.iter().any(|attribute| {
            matches!(attribute, LinkAttribute::LinkInfo(info) if info.contains(&LinkInfo::Kind(kind.clone())))
        })
    };
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
        is_bridge: false,
        is_up: link.header.flags.contains(LinkFlags::Up),
        framing: if link.header.link_layer_type == LinkLayerType::Ether {
            Framing::Ethernet
        } else {
            Framing::L3
        },
    };
    for attribute in &link.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            device.name.clone_from(name);
        } else if let LinkAttribute::LinkInfo(info) = attribute {
            device.is_bridge |=
                info.iter().any(|item| matches!(item, LinkInfo::Kind(InfoKind::Bridge)));
        }
    }
    device
}
