//! The node's devices and addresses; the only user of rtnetlink.
//!
//! In: netlink. Out: a [`Devices`] snapshot at the start and after every change. Must not: change anything
//! of the node by itself.
//! [`VethReader`] tells where the veth pairs of a namespace lead, [`TrafficControl`] hangs programs on devices for `ebpf`.
//! [`PretendDevices`] are for simulations, out of the node's sight.

mod pretend;
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

pub use netpol_netlink::{CLSACT, Filter, Position, Side, TrafficControl, device_name};
pub use pretend::{Error as PretendError, PretendDevices};
pub use veth::{VethEnd, VethReader};

/// How long the devices must be quiet before they are read again: by then an ADD in progress has reached the agent.
const QUIET: Duration = Duration::from_millis(200);
/// After so long they are read although they are not quiet.
const PATIENCE: Duration = Duration::from_secs(2);

/// What there is on the node, without loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// Every device with its role.
    pub by_ifindex: BTreeMap<IfIndex, Device>,
    /// All addresses of all devices.
    pub addresses: BTreeSet<IpAddr>,
}

/// One network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Joins other devices: what it carries away leaves through one of its ports.
    pub is_bridge: bool,
    /// Up, or meant to be.
    pub is_up: bool,
    /// What its packets begin with.
    pub framing: Framing,
}

/// Why netlink cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("cannot open a netlink socket")]
    Connect(#[source] std::io::Error),
    /// The kernel refuses a question.
    #[error("cannot list the node's {what}")]
    List {
        /// Devices or addresses.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: rtnetlink::Error,
    },
    /// The kernel refuses to list the veth pairs of a network namespace.
    #[error("cannot list the veth pairs of a network namespace")]
    ListVeths(#[source] std::io::Error),
}

/// Sends the devices as they are now, and again after every change, until `cancel` is cancelled or nobody listens.
///
/// # Errors
/// Netlink cannot be used at all. Later failures are logged, and the next change tries again.
pub async fn watch(out: mpsc::Sender<Devices>, cancel: CancellationToken) -> Result<(), Error> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, mut news) =
        new_multicast_connection(&groups).map_err(Error::Connect)?;
    let connection = tokio::spawn(connection);
    if out.send(read(&handle).await?).await.is_err() {
        return Ok(());
    }
    loop {
        let Some(Some(_)) = cancel.run_until_cancelled(news.next()).await else { break };
        // Changes come in bursts. The end of the burst is what matters.
        let burst = async { while let Ok(Some(_)) = timeout(QUIET, news.next()).await {} };
        // Either it ended, or it has lasted long enough.
        drop(timeout(PATIENCE, burst).await);
        match read(&handle).await {
            // Also if they are the same: what came and went meanwhile has left pins.
            Ok(now) => {
                if out.send(now).await.is_err() {
                    break;
                }
            }
            Err(error) => warn!(%error, "the node's devices are as last known"),
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
    for link in links {
        if link.header.link_layer_type == LinkLayerType::Loopback {
            loopback.insert(link.header.index);
        } else {
            devices.by_ifindex.insert(IfIndex(link.header.index), device(&link));
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
    }
    Ok(devices)
}

/// The own address that a message tells.
fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    // On a point-to-point device `Address` is the other end; `Local` is always ours.
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
