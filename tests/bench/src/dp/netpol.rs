//! netpol in a lane: its programs, and maps as its compiler fills them.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use netpol_common::addr::Addr;
use netpol_common::flow_table::N_SLOTS;
use netpol_common::ids::{Direction, Identity, IfIndex, PortBe, Protocol, RuleId};
use netpol_common::keys::{AddressKey, AllowKey, AllowValue, EndpointValue, PrefixKey};
use netpol_common::mac::Mac;
use netpol_common::maps;
use netpol_datapath::{Attaching, Config, Datapath, Role};
use netpol_policy::compile::{AllowMap, AllowMapKey, EndpointMapState, MapState};
use netpol_policy::dataplane::diff;
use netpol_policy::dataplane::port::Maps as _;

use super::lane::{Family, Lane, PORT, peer, pod};

/// First interface index of simulated pods.
const ABSENT: u32 = 10_000;
/// The identity of all peers.
pub const PEERS: Identity = Identity::FIRST;

/// How a policy selects its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// By labels: pod addresses.
    Pods(u16),
    /// By ipBlock: blocks of one address.
    Blocks(u16),
}

/// The allow map that lets all peers reach a pod on [`PORT`], and vice versa.
pub fn allowed() -> Arc<AllowMap> {
    let entry = |protocol| {
        let key = AllowKey::lookup(PEERS, protocol, PortBe::new(PORT));
        (key, AllowValue::allow(RuleId(1)))
    };
    Arc::new([Protocol::TCP, Protocol::UDP].into_iter().map(entry).collect())
}

/// The map state for pods, the first of which is on this interface; these peers may reach all of them on [`PORT`] and vice
/// versa.
pub fn map_state(server: IfIndex, n_pods: u16, peers: Peers) -> MapState {
    let allowed = allowed();
    let mut map_state = MapState::default();
    for (number, absent) in (0..n_pods).zip(ABSENT..) {
        let ifindex = if number == 0 { server } else { IfIndex(absent) };
        let value = EndpointValue {
            state: EndpointValue::READY,
            isolated: Direction::Ingress.bit() | Direction::Egress.bit(),
            egress_mark: number + 1,
            ..EndpointValue::blocked()
        };
        let container_id = Arc::from(format!("pod-{number}"));
        map_state
            .endpoints
            .insert(ifindex, EndpointMapState { value, container_id, mac: Mac::UNKNOWN });
        map_state.egress_marks.insert(number + 1, ifindex);
        for family in [Family::V4, Family::V6] {
            map_state.addresses.insert(AddressKey { ifindex, addr: pod(number, family).into() });
        }
        for direction in Direction::ALL {
            map_state.allow.insert(AllowMapKey::new(ifindex, direction), Arc::clone(&allowed));
        }
    }
    for family in [Family::V4, Family::V6] {
        match peers {
            Peers::Pods(n) => {
                map_state.identities.extend((0..n).map(|n| (Addr::from(peer(n, family)), PEERS)));
            }
            Peers::Blocks(n) => {
                let key = |n| PrefixKey::lookup(Addr::from(peer(n, family)));
                map_state.prefixes.extend((0..n).map(|n| (key(n), PEERS)));
            }
        }
    }
    map_state
}

/// netpol on the router of a lane.
pub struct Netpol {
    /// The product.
    pub datapath: Datapath,
    pins: PathBuf,
}

impl Netpol {
    /// Loads the programs, with a flow table of the default size unless given, fills the maps, and attaches.
    ///
    /// # Errors
    /// The kernel refused something.
    pub fn install(
        lane: &Lane,
        n_flows: Option<u32>,
        n_pods: u16,
        peers: Peers,
        attaching: Attaching,
    ) -> Result<Self> {
        let pins = PathBuf::from("/sys/fs/bpf").join(lane.router.name());
        let n_slots = u32::try_from(N_SLOTS)?;
        let capacities = n_flows.map(|n| (maps::FLOWS, n / n_slots)).into_iter().collect();
        let config =
            Config { pin_root: Some(pins.clone()), capacities, attaching, ..Config::default() };
        let server = IfIndex(lane.router.interface_index("s0")?);
        let mut datapath = Datapath::load(&config).context("loading netpol's programs")?;
        datapath.apply(&diff(&MapState::default(), &map_state(server, n_pods, peers)))?;
        lane.router.inside(|| Ok(datapath.attach(server, Role::Pod)?))?;
        Ok(Self { datapath, pins })
    }
}

impl Drop for Netpol {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.pins).ok();
    }
}

/// A private copy for test runs of single packets: one pod on the loopback device, which exists in every namespace.
///
/// # Errors
/// The kernel refused something.
pub fn private(n_pods: u16, peers: Peers) -> Result<Datapath> {
    let mut datapath = Datapath::load(&Config::private()).context("loading netpol's programs")?;
    datapath.apply(&diff(&MapState::default(), &map_state(IfIndex(1), n_pods, peers)))?;
    Ok(datapath)
}

/// The Ethernet frame of an IP packet.
pub fn frame(packet: &[u8], to: IpAddr) -> Vec<u8> {
    let ethertype = if to.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&[2, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 3], ethertype.as_slice(), packet].concat()
}
