//! The network of a lab: one node, and two hosts outside of it on one Ethernet.
//!
//! ```text
//!  pods 10.244.1.0/24 ── cni0 [node] eth0 192.0.2.1 ──── eth0 [office] 192.0.2.10
//!                                                   └─── eth0 [guest] 192.0.2.200
//! ```
//! The same in IPv6. The hosts outside reach pod addresses through the node, without NAT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::netns::Netns;

/// The node's name in the cluster.
pub const NODE_NAME: &str = "node-1";

/// MTU of the hosts' Ethernet: packets of 1500 bytes, the MTU of the pods, fit through a tunnel.
pub(super) const ETHERNET_MTU: u32 = 1550;

/// The node's addresses on its uplink, as its Node object has them.
pub const NODE: [IpAddr; 2] = [v4(192, 0, 2, 1), v6(0, 1)];

/// A host outside. Its IPv4 address is in 192.0.2.0/25.
pub const OFFICE: [IpAddr; 2] = [v4(192, 0, 2, 10), v6(0xa, 0x10)];

/// Another one. Its IPv4 address is in 192.0.2.128/25.
pub const GUEST: [IpAddr; 2] = [v4(192, 0, 2, 200), v6(0xb, 0x20)];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// The address with these last two groups, in the hosts' /64.
const fn v6(group: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x192, 0, 0, 0, group, host))
}

/// The network namespaces besides those of pods.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    pub(super) node: Netns,
    pub(super) office: Netns,
    pub(super) guest: Netns,
}

impl Topology {
    /// Makes the namespaces, named by `name_of`, and connects them.
    ///
    /// # Errors
    /// `ip` failed, mostly for lack of root.
    pub(super) fn create(name_of: impl Fn(&str) -> String) -> Result<Self> {
        let node = Netns::create(&name_of("node"))?;
        let office = Netns::create(&name_of("office"))?;
        let guest = Netns::create(&name_of("guest"))?;
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            node.set(key, "1")?;
        }
        // The office host has the bridge to which node and guest are connected.
        office.configure(&format!(
            "link add eth0 type bridge\n\
             link add to-node mtu {ETHERNET_MTU} type veth peer name eth0 mtu {ETHERNET_MTU} netns {}\n\
             link add to-guest mtu {ETHERNET_MTU} type veth peer name eth0 mtu {ETHERNET_MTU} netns {}\n\
             link set to-node master eth0 up\n\
             link set to-guest master eth0 up\n",
            node.name(),
            guest.name(),
        ))?;
        node.configure(&uplink(NODE))?;
        for (host, addresses) in [(&office, OFFICE), (&guest, GUEST)] {
            host.configure(&uplink(addresses))?;
            let [v4, v6] = NODE;
            host.configure(&format!("route add default via {v4}\nroute add default via {v6}\n"))?;
        }
        Ok(Self { node, office, guest })
    }
}

fn uplink([v4, v6]: [IpAddr; 2]) -> String {
    format!("address add {v4}/24 dev eth0\naddress add {v6}/64 dev eth0 nodad\nlink set eth0 up\n")
}

/// How pods are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// The bridge plugin, as Flannel configures it, and ours chained behind it.
    Bridge,
    /// Our plugin alone: routed veths.
    Routed,
}

/// The configuration list, as in `/etc/cni/net.d`.
pub(super) fn conflist(wiring: Wiring, folder: &Path, socket: &Path) -> Value {
    let ipam = json!({
        "type": "host-local",
        "dataDir": folder.join("ipam"),
        "ranges": [[{ "subnet": "10.244.1.0/24" }], [{ "subnet": "fd00:10:244:1::/64" }]],
    });
    let plugins = match wiring {
        Wiring::Bridge => json!([
            {
                "type": "bridge",
                "bridge": "cni0",
                "isDefaultGateway": true,
                "hairpinMode": true,
                "ipam": ipam,
            },
            { "type": "netpol-cni", "agentSocket": socket, "capabilities": { "bandwidth": true } },
        ]),
        Wiring::Routed => json!([{
            "type": "netpol-cni", "agentSocket": socket, "capabilities": { "bandwidth": true }, "ipam": ipam,
        }]),
    };
    json!({ "cniVersion": "1.0.0", "name": "lab", "plugins": plugins })
}
