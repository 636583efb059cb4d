//! One network per configuration: client, router, server. So no configuration changes between samples.
//!
//! ```text
//!  [client] eth0 ──── c0 [router] s0 ──── eth0 [server]
//! ```
//! The server is the pod. The configuration under test is in the router, at `s0` or in netfilter. Neighbour entries are
//! permanent, so that only the datagrams are on the wire. At both ends `sink` drops and counts them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use aya::programs::TcAttachType;

use super::flood::{Sender, Tuple, packets};
use super::reference::{Attaching, Programs};
use crate::clock::number;
use netpol_lab::node::netns::{self, Netns};

/// Name prefix of the benchmarks' namespaces.
pub const PREFIX: &str = "netpol-bench-";
/// The server's port.
pub const PORT: u16 = 8080;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A pod on the node; number 0 is the server.
pub fn pod(number: u16, family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(0x0af4_0002 + u32::from(number))),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 1, 2 + number).into(),
    }
}

/// A peer's IPv4 address.
pub fn peer_v4(number: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0ac8_0002 + 2 * u32::from(number))
}

/// A peer's address; number 0 is the client's own.
pub fn peer(number: u16, family: Family) -> IpAddr {
    match family {
        Family::V4 => peer_v4(number).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 1, 2 * number).into(),
    }
}

/// An address that is no peer: the neighbour of one.
pub fn stranger(number: u16, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(0x0ac8_0003 + 2 * u32::from(number)).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 1, 2 * number + 1).into(),
    }
}

/// A datagram to the server.
pub fn tuple(from: IpAddr, port: u16) -> Tuple {
    let family = if from.is_ipv4() { Family::V4 } else { Family::V6 };
    let to = SocketAddr::new(pod(0, family), PORT);
    Tuple { from: SocketAddr::new(from, port), to }
}

/// The three namespaces.
#[derive(Debug)]
pub struct Lane {
    client: Netns,
    /// The router.
    pub router: Netns,
    server: Netns,
    sink: Programs,
    senders: [Sender; 2],
    answerers: [Sender; 2],
}

impl Lane {
    /// Makes a lane without any policy.
    ///
    /// # Errors
    /// Something could not be made, mostly for lack of root.
    pub fn create(name: &str) -> Result<Self> {
        let name_of = |part: &str| format!("{PREFIX}{}-{name}-{part}", std::process::id());
        let mut unfinished = Unfinished(Vec::new());
        let mut make = |part: &str| -> Result<Netns> {
            unfinished.0.push(name_of(part));
            Netns::create(&name_of(part))
        };
        let (client, router, server) = (make("c")?, make("r")?, make("s")?);
        wire(&client, &router, &server)?;
        let mut sink = Programs::load(1)?;
        let mut ends = Vec::new();
        for (netns, others) in [(&client, pod as fn(u16, Family) -> IpAddr), (&server, peer)] {
            ends.push(netns.inside(|| {
                sink.attach("sink", "eth0", TcAttachType::Ingress, Attaching::Tcx)?;
                Ok([Sender::open(others(0, Family::V4))?, Sender::open(others(0, Family::V6))?])
            })?);
        }
        let (answerers, senders) = (ends.pop(), ends.pop());
        unfinished.0.clear();
        Ok(Self {
            client,
            router,
            server,
            sink,
            senders: senders.context("no senders")?,
            answerers: answerers.context("no answerers")?,
        })
    }

    /// Sends packets to the server; returns nanoseconds per packet and the share that arrived.
    ///
    /// # Errors
    /// They could not be sent or counted.
    pub fn send(&self, packets: &[Vec<u8>]) -> Result<(f64, f64)> {
        let before = self.sink.n_arrived()?;
        let time = sender(&self.senders, packets).send(packets)?;
        let n_arrived = number(self.sink.n_arrived()? - before);
        Ok((time, n_arrived / number(packets.len().max(1) as u64)))
    }

    /// Establishes connections in both directions: a datagram and its answer each.
    ///
    /// # Errors
    /// They could not be sent, or did not arrive.
    pub fn establish(&self, tuples: &[Tuple]) -> Result<()> {
        let reversed: Vec<Tuple> = tuples.iter().map(|tuple| tuple.reversed()).collect();
        let (_, part) = self.send(&packets(tuples)?)?;
        ensure!(part > 0.999, "of the first datagrams {part} arrived");
        let answers = packets(&reversed)?;
        let before = self.sink.n_arrived()?;
        sender(&self.answerers, &answers).send(&answers)?;
        let n_arrived = self.sink.n_arrived()? - before;
        ensure!(n_arrived == answers.len() as u64, "of the answers {n_arrived} arrived");
        Ok(())
    }

    /// The server's namespace.
    pub fn server(&self) -> &Netns {
        &self.server
    }

    /// The client's namespace.
    pub fn client(&self) -> &Netns {
        &self.client
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        for netns in [&self.client, &self.router, &self.server] {
            netns::delete(netns.name()).ok();
        }
    }
}

/// Namespaces of an incomplete lane, removed on drop.
struct Unfinished(Vec<String>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        for name in &self.0 {
            netns::delete(name).ok();
        }
    }
}

/// Removes the namespaces of benchmarks whose process is gone.
///
/// # Errors
/// The names cannot be read.
pub fn remove_leftovers() -> Result<()> {
    for name in netns::names(PREFIX)? {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| fs::metadata(format!("/proc/{owner}")).is_err()) {
            netns::delete(&name)?;
        }
    }
    Ok(())
}

fn sender<'s>([v4, v6]: &'s [Sender; 2], packets: &[Vec<u8>]) -> &'s Sender {
    let is_v6 =
        packets.first().and_then(|packet| packet.first()).is_some_and(|first| first >> 4 == 6);
    if is_v6 { v6 } else { v4 }
}

fn wire(client: &Netns, router: &Netns, server: &Netns) -> Result<()> {
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    ] {
        router.set(key, value)?;
    }
    let [client_mac, c0_mac, s0_mac, server_mac] =
        [1, 2, 3, 4].map(|last| format!("02:00:00:00:00:0{last}"));
    router.configure(&format!(
        "link add c0 address {c0_mac} type veth peer name eth0 address {client_mac} netns {}\n\
         link add s0 address {s0_mac} type veth peer name eth0 address {server_mac} netns {}\n\
         link set c0 up\nlink set s0 up\n",
        client.name(),
        server.name(),
    ))?;
    router.set("net/ipv4/conf/c0/rp_filter", "0")?;
    for family in [Family::V4, Family::V6] {
        let (bits, gateways) = match family {
            Family::V4 => (32, ["169.254.1.1", "169.254.1.2"]),
            Family::V6 => (128, ["fe80::1:1", "fe80::1:2"]),
        };
        let (client_addr, server_addr) = (peer(0, family), pod(0, family));
        let peers = match family {
            Family::V4 => "10.200.0.0/13",
            Family::V6 => "2001:db8:3::/64",
        };
        let [to_client, to_server] = gateways;
        router.configure(&format!(
            "route add {client_addr}/{bits} dev c0\nroute add {server_addr}/{bits} dev s0\n\
             route add {peers} via {client_addr} dev c0\n\
             neigh add {client_addr} lladdr {client_mac} dev c0 nud permanent\n\
             neigh add {server_addr} lladdr {server_mac} dev s0 nud permanent\n"
        ))?;
        for (netns, own, gateway, mac) in
            [(client, client_addr, to_client, &c0_mac), (server, server_addr, to_server, &s0_mac)]
        {
            netns.configure(&format!(
                "link set eth0 up\naddress add {own}/{bits} dev eth0{}\n\
                 route add {gateway}/{bits} dev eth0\n\
                 route add default via {gateway} dev eth0\n\
                 neigh add {gateway} lladdr {mac} dev eth0 nud permanent\n",
                if family == Family::V6 { " nodad" } else { "" }
            ))?;
        }
    }
    Ok(())
}
