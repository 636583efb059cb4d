//! Nodes and pods, wired as Flannel does, and what runs on them.
//!
//! ```text
//!  [pod] eth0 ──── v0 ┐               [pod] eth0 ──── v0 ── cni0 [node] flannel.1 ─ eth0 ┐
//!                     ├ cni0 [node]                                                      │
//!  [pod] eth0 ──── v1 ┘               [pod] eth0 ──── v1 ── cni0 [node] flannel.1 ─ eth0 ┘
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use aya::programs::TcAttachType;
use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, IfIndex};
use netpol_common::keys::{AddressKey, EndpointValue, Overlay, PrefixKey};
use netpol_common::mac::Mac;
use netpol_datapath::{Config, Datapath, Role};
use netpol_lab::node::netns::Netns;
use netpol_policy::compile::{AllowMapKey, EndpointMapState, MapState};
use netpol_policy::dataplane::diff;
use netpol_policy::dataplane::port::Maps as _;

use super::super::lane::{Family, peer};
use super::super::netfilter::{Pods, nft};
use super::super::netpol::{PEERS, allowed};
use super::super::reference::{Attaching, Programs};
use super::{Means, Recipe};

/// Whether the nodes track connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Conntrack {
    On,
    Off,
}

/// The nodes of both pods.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    OneNode,
    /// Connected by vxlan.
    TwoNodes,
}

/// A pod.
#[derive(Clone, Copy)]
pub(super) struct Pod {
    /// Its interface on the node.
    device: &'static str,
    pub(super) address: Ipv4Addr,
    mac: [u8; 6],
    /// The number of its node.
    node: u8,
}

impl Layout {
    pub(super) const fn pods(self) -> [Pod; 2] {
        let node = match self {
            Self::OneNode => 0,
            Self::TwoNodes => 1,
        };
        [
            Pod {
                device: "v0",
                address: Ipv4Addr::new(10, 244, 90, 2),
                mac: [2, 0, 0, 0, 0, 2],
                node: 0,
            },
            Pod {
                device: "v1",
                address: Ipv4Addr::new(10, 244, 90 + node, 3),
                mac: [2, 0, 0, 0, node, 3],
                node,
            },
        ]
    }

    pub(super) const fn n_nodes(self) -> usize {
        match self {
            Self::OneNode => 1,
            Self::TwoNodes => 2,
        }
    }

    /// In names.
    pub(super) const fn letter(self) -> char {
        match self {
            Self::OneNode => 's',
            Self::TwoNodes => 'x',
        }
    }

    /// In titles.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::OneNode => "",
            Self::TwoNodes => " of two nodes over vxlan",
        }
    }
}

/// The pods of [`Layout::OneNode`] as netfilter's rules know them: the server, the client, and others, which do not exist.
const OF_A_NODE: Pods = Pods {
    address: |number, family| {
        let host = match number {
            0 => 3,
            1 => 2,
            other => other + 2,
        };
        match family {
            Family::V4 => {
                let network = Ipv4Addr::new(10, 244, 90, 0).to_bits();
                Ipv4Addr::from_bits(network + u32::from(host)).into()
            }
            // The rules name both families, the pods have one.
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 90, 0, 0, 0, 0, host).into(),
        }
    },
    n_senders: 1,
    protocols: &["tcp", "udp"],
};

/// The MAC addresses of the pods' bridge and of `flannel.1`.
const fn macs(node: u8) -> [[u8; 6]; 2] {
    [[2, 0, 0, 0, node, 1], [2, 0, 0, 0, node, 0]]
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

pub(super) fn wire(
    layout: Layout,
    nodes: &[Netns],
    pods: &[Netns; 2],
    conntrack: Conntrack,
) -> Result<()> {
    for (number, node) in (0..).zip(nodes) {
        let [bridge, _] = macs(number);
        node.configure(&format!(
            "link add cni0 address {} type bridge\naddress add 10.244.9{number}.1/24 dev cni0\nlink set cni0 up\n",
            text(bridge)
        ))?;
        node.set("net/ipv4/ip_forward", "1")?;
        let to_netfilter = if conntrack == Conntrack::On { "1" } else { "0" };
        node.set("net/bridge/bridge-nf-call-iptables", to_netfilter)?;
    }
    for (plan, pod) in layout.pods().iter().zip(pods) {
        let Pod { device, address, mac, node: number } = plan;
        let node = nodes.get(usize::from(*number)).context("no such node")?;
        node.configure(&format!(
            "link add {device} type veth peer name eth0 address {} netns {}\nlink set {device} master cni0 up\n",
            text(*mac),
            pod.name()
        ))?;
        pod.configure(&format!(
            "address add {address}/24 dev eth0\nlink set eth0 up\nroute add default via 10.244.9{number}.1\n"
        ))?;
    }
    if let [first, second] = nodes {
        first.configure(&format!(
            "link add eth0 mtu 1550 type veth peer name eth0 mtu 1550 netns {}\n",
            second.name()
        ))?;
        for (number, node) in [(0, first), (1, second)] {
            let other = 1 - number;
            let ([_, own], [_, device]) = (macs(number), macs(other));
            node.configure(&format!(
                "address add 192.0.2.1{number}/24 dev eth0\nlink set eth0 up\n\
                 link add flannel.1 address {} type vxlan id 1 dev eth0 local 192.0.2.1{number} remote 192.0.2.1{other} dstport 8472 nolearning\n\
                 address add 10.244.9{number}.0/32 dev flannel.1\nlink set flannel.1 up\n\
                 neighbour add 10.244.9{other}.0 lladdr {} dev flannel.1 nud permanent\n\
                 route add 10.244.9{other}.0/24 via 10.244.9{other}.0 dev flannel.1 onlink\n",
                text(own),
                text(device)
            ))?;
        }
    }
    if conntrack == Conntrack::On {
        for node in nodes {
            nft(
                node,
                "table inet node {\nchain forward {\ntype filter hook forward priority 0\nct state established,related accept\naccept\n}\n\
                 chain postrouting {\ntype nat hook postrouting priority 100\nip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade\n}\n}\n",
            )?;
        }
    }
    Ok(())
}

/// The interfaces of the pods of a node, with their plans.
fn own_pods(layout: Layout, number: u8, node: &Netns) -> Result<Vec<(IfIndex, Pod)>> {
    let own = layout.pods().into_iter().filter(|plan| plan.node == number);
    own.map(|plan| Ok((IfIndex(node.interface_index(plan.device)?), plan))).collect()
}

pub(super) fn install(
    layout: Layout,
    nodes: &[Netns],
    recipe: Recipe,
    n_peers: u16,
) -> Result<Means> {
    match recipe {
        Recipe::None => Ok(Means::None),
        Recipe::Empty => {
            let mut programs = Programs::load(1)?;
            for (number, node) in (0..).zip(nodes) {
                let pods = own_pods(layout, number, node)?;
                node.inside(|| {
                    for (_, Pod { device, .. }) in pods {
                        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
                            programs.attach("nop", device, side, Attaching::Tcx)?;
                        }
                    }
                    Ok(())
                })?;
            }
            Ok(Means::Empty(programs))
        }
        Recipe::Netpol { traits } => {
            let mut datapaths = Vec::new();
            for (number, node) in (0..).zip(nodes) {
                datapaths.push(netpol(layout, number, node, (n_peers, traits))?);
            }
            Ok(Means::Netpol { datapaths, is_short: traits != 0 })
        }
        Recipe::Netfilter(rules) => {
            nodes.iter().try_for_each(|node| rules.install(node, &OF_A_NODE))?;
            Ok(Means::Netfilter)
        }
    }
}

/// netpol on a node.
fn netpol(
    layout: Layout,
    number: u8,
    node: &Netns,
    (n_peers, traits): (u16, u8),
) -> Result<(Datapath, PathBuf)> {
    let pods = own_pods(layout, number, node)?;
    let pins = PathBuf::from("/sys/fs/bpf").join(node.name());
    let config = Config { pin_root: Some(pins.clone()), ..Config::default() };
    let mut datapath = Datapath::load(&config).context("loading netpol's programs")?;
    datapath.apply(&diff(&MapState::default(), &map_state(layout, &pods, n_peers, traits)))?;
    if layout == Layout::TwoNodes {
        let tunnel = IfIndex(node.interface_index("flannel.1")?);
        if traits != 0 {
            let [bridge, device] = macs(number).map(Mac::new);
            let network = Addr::from_v4([10, 244, 91 - number, 0]);
            let networks = [PrefixKey { prefix_len_bits: 120, addr: network }];
            let overlay = Overlay::new(tunnel, bridge, device);
            datapath.set_overlay(&[(0, overlay)].into(), &networks.into())?;
        }
        node.inside(|| Ok(datapath.attach(tunnel, Role::Uplink)?))?;
    }
    node.inside(|| {
        pods.iter().try_for_each(|(ifindex, _)| Ok(datapath.attach(*ifindex, Role::Pod)?))
    })?;
    Ok((datapath, pins))
}

/// The pods of a node, isolated in both directions; the peers, to which both pods belong, may reach them on
/// [`PORT`](super::PORT) and vice versa.
fn map_state(layout: Layout, pods: &[(IfIndex, Pod)], n_peers: u16, traits: u8) -> MapState {
    let allowed = allowed();
    let mut map_state = MapState::default();
    let peers = (0..n_peers).map(|number| (Addr::from(peer(number, Family::V4)), PEERS));
    map_state.identities.extend(peers);
    let both = layout.pods().map(|plan| (Addr::from_v4(plan.address.octets()), PEERS));
    map_state.identities.extend(both);
    for (number, (ifindex, plan)) in (1..).zip(pods) {
        let value = EndpointValue {
            state: EndpointValue::READY,
            isolated: Direction::Ingress.bit() | Direction::Egress.bit(),
            egress_mark: number,
            traits,
            ..EndpointValue::blocked()
        };
        let container_id = Arc::from(format!("pod-{number}"));
        let endpoint = EndpointMapState { value, container_id, mac: Mac::new(plan.mac) };
        map_state.endpoints.insert(*ifindex, endpoint);
        map_state.egress_marks.insert(number, *ifindex);
        let addr = Addr::from_v4(plan.address.octets());
        map_state.addresses.insert(AddressKey { ifindex: *ifindex, addr });
        for direction in Direction::ALL {
            map_state.allow.insert(AllowMapKey::new(*ifindex, direction), Arc::clone(&allowed));
        }
    }
    map_state
}
