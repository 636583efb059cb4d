//! Round trips between two pods on the bridge of a node, with the short cut and without.
//!
//! ```text
//!  [pod] eth0 ──── v0 ┐
//!                     ├ cni0 [node]
//!  [pod] eth0 ──── v1 ┘
//! ```
//! One byte goes to and fro between two threads on one processor, so the time contains all that the kernel does for both packets.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::TcAttachType;
use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, IfIndex, Protocol};
use netpol_common::keys::{AddressKey, EndpointValue};
use netpol_common::mac::Mac;
use netpol_datapath::{Config, Datapath, Role};
use netpol_lab::node::netns::{self, Netns};
use netpol_policy::compile::{AllowMapKey, EndpointMapState, MapState};
use netpol_policy::dataplane::diff;
use netpol_policy::dataplane::port::{Flows as _, Maps as _};

use super::lane::{Family, PORT, PREFIX, peer};
use super::netfilter::nft;
use super::netpol::{PEERS, allowed};
use super::reference::{Attaching, Programs};
use crate::Run;
use crate::clock::nanos;
use crate::gates::Unit;

const NONE: &str = "no policy";
const SHORT: &str = "netpol, short cut";
/// The pods' ends, with the interface on the bridge.
const PODS: [(&str, Ipv4Addr, [u8; 6]); 2] = [
    ("v0", Ipv4Addr::new(10, 244, 9, 2), [2, 0, 0, 0, 9, 2]),
    ("v1", Ipv4Addr::new(10, 244, 9, 3), [2, 0, 0, 0, 9, 3]),
];
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Whether the node tracks connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Conntrack {
    On,
    Off,
}

/// The configuration of a node.
#[derive(Clone, Copy)]
enum Recipe {
    None,
    Empty,
    /// With these [traits](EndpointValue::traits) of both pods.
    Netpol {
        traits: u8,
    },
}

/// What a configuration keeps in the kernel.
enum Means {
    None,
    Empty(#[expect(dead_code, reason = "dropped, it detaches")] Programs),
    Netpol { datapath: Box<Datapath>, pins: PathBuf, is_short: bool },
}

/// Both ends of a connection: the client's is used here, the other one echoes in a thread.
struct Connection<C> {
    client: C,
    _echo: JoinHandle<()>,
}

/// A node with its pods.
struct Contender {
    name: &'static str,
    node: Netns,
    pods: [Netns; 2],
    means: Means,
    tcp: Connection<TcpStream>,
    udp: Connection<UdpSocket>,
}

impl Contender {
    fn create(
        number: usize,
        name: &'static str,
        recipe: Recipe,
        n_peers: u16,
        conntrack: Conntrack,
    ) -> Result<Self> {
        let make = |part: &str| {
            Netns::create(&format!(
                "{PREFIX}{}-sc{number}{}-{part}",
                std::process::id(),
                u8::from(conntrack == Conntrack::On)
            ))
        };
        let node = make("n")?;
        let pods = [make("a")?, make("b")?];
        wire(&node, &pods, conntrack)?;
        let means = install(&node, recipe, n_peers)?;
        let server = SocketAddr::from((PODS[1].1, PORT));
        let listener = pods[1].inside(|| Ok(TcpListener::bind(server)?))?;
        let echo = std::thread::spawn(move || drop(echo_stream(&listener)));
        let client = pods[0].inside(|| Ok(TcpStream::connect_timeout(&server, LIMIT)?))?;
        client.set_nodelay(true)?;
        client.set_read_timeout(Some(LIMIT))?;
        let tcp = Connection { client, _echo: echo };
        let socket = pods[1].inside(|| Ok(UdpSocket::bind(server)?))?;
        let echo = std::thread::spawn(move || drop(echo_datagrams(&socket)));
        let client = pods[0].inside(|| {
            let client = UdpSocket::bind("0.0.0.0:0")?;
            client.connect(server)?;
            Ok(client)
        })?;
        client.set_read_timeout(Some(LIMIT))?;
        let udp = Connection { client, _echo: echo };
        Ok(Self { name, node, pods, means, tcp, udp })
    }

    /// Nanoseconds per round trip.
    fn round_trips(&mut self, protocol: Protocol, n: u32) -> Result<f64> {
        let (time, ()) = nanos(|| {
            let mut byte = [7_u8];
            for _ in 0..n {
                if protocol == Protocol::TCP {
                    self.tcp.client.write_all(&byte)?;
                    self.tcp.client.read_exact(&mut byte)?;
                } else {
                    self.udp.client.send(&byte)?;
                    self.udp.client.recv(&mut byte)?;
                }
            }
            Ok(())
        })?;
        if let Means::Netpol { datapath, is_short, .. } = &self.means {
            let flows = datapath.flows()?;
            let n_redirected = flows
                .iter()
                .filter(|(key, flow)| key.protocol == protocol && flow.redirect.0 != 0)
                .count();
            ensure!((n_redirected == 2) == *is_short, "{n_redirected} flows take the short cut");
        }
        Ok(time / f64::from(n))
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        // The echoing threads end with their connections.
        self.tcp.client.shutdown(std::net::Shutdown::Both).ok();
        self.udp.client.send(&[0, 0]).ok();
        if let Means::Netpol { pins, .. } = &self.means {
            fs::remove_dir_all(pins).ok();
        }
        for netns in [&self.node, &self.pods[0], &self.pods[1]] {
            netns::delete(netns.name()).ok();
        }
    }
}

fn echo_stream(listener: &TcpListener) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut byte = [0_u8];
    loop {
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
    }
}

/// Until a datagram of two bytes.
fn echo_datagrams(socket: &UdpSocket) -> std::io::Result<()> {
    let mut bytes = [0_u8; 2];
    loop {
        let (n, from) = socket.recv_from(&mut bytes)?;
        if n == 2 {
            return Ok(());
        }
        socket.send_to(bytes.get(..n).unwrap_or_default(), from)?;
    }
}

fn wire(node: &Netns, pods: &[Netns; 2], conntrack: Conntrack) -> Result<()> {
    node.configure(
        "link add cni0 type bridge\naddress add 10.244.9.1/24 dev cni0\nlink set cni0 up\n",
    )?;
    for ((device, address, mac), pod) in PODS.iter().zip(pods) {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        node.configure(&format!(
            "link add {device} type veth peer name eth0 address {mac} netns {}\nlink set {device} master cni0 up\n",
            pod.name()
        ))?;
        pod.configure(&format!("address add {address}/24 dev eth0\nlink set eth0 up\n"))?;
    }
    node.set("net/ipv4/ip_forward", "1")?;
    node.set(
        "net/bridge/bridge-nf-call-iptables",
        if conntrack == Conntrack::On { "1" } else { "0" },
    )?;
    if conntrack == Conntrack::On {
        nft(
            node,
            "table inet bench {\nchain forward {\ntype filter hook forward priority 0\nct state established,related accept\naccept\n}\n\
             chain postrouting {\ntype nat hook postrouting priority 100\nip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade\n}\n}\n",
        )?;
    }
    Ok(())
}

fn install(node: &Netns, recipe: Recipe, n_peers: u16) -> Result<Means> {
    let interfaces = [node.interface_index("v0")?, node.interface_index("v1")?].map(IfIndex);
    Ok(match recipe {
        Recipe::None => Means::None,
        Recipe::Empty => {
            let mut programs = Programs::load(1)?;
            node.inside(|| {
                for (device, ..) in PODS {
                    for side in [TcAttachType::Ingress, TcAttachType::Egress] {
                        programs.attach("nop", device, side, Attaching::Tcx)?;
                    }
                }
                Ok(())
            })?;
            Means::Empty(programs)
        }
        Recipe::Netpol { traits } => {
            let pins = PathBuf::from("/sys/fs/bpf").join(node.name());
            let config = Config { pin_root: Some(pins.clone()), ..Config::default() };
            let mut datapath = Datapath::load(&config).context("loading netpol's programs")?;
            let map_state = map_state(interfaces, n_peers, traits);
            datapath.apply(&diff(&MapState::default(), &map_state))?;
            node.inside(|| {
                interfaces
                    .into_iter()
                    .try_for_each(|ifindex| Ok(datapath.attach(ifindex, Role::Pod)?))
            })?;
            Means::Netpol { datapath: Box::new(datapath), pins, is_short: traits != 0 }
        }
    })
}

/// Both pods, isolated in both directions; the peers, to which both belong, may reach them on [`PORT`] and vice versa.
fn map_state(interfaces: [IfIndex; 2], n_peers: u16, traits: u8) -> MapState {
    let allowed = allowed();
    let mut map_state = MapState::default();
    let peers = (0..n_peers).map(|number| (Addr::from(peer(number, Family::V4)), PEERS));
    map_state.identities.extend(peers);
    for ((number, ifindex), (_, address, mac)) in (1..).zip(interfaces).zip(PODS) {
        let value = EndpointValue {
            state: EndpointValue::READY,
            isolated: Direction::Ingress.bit() | Direction::Egress.bit(),
            egress_mark: number,
            traits,
            ..EndpointValue::blocked()
        };
        let container_id = Arc::from(format!("pod-{number}"));
        let endpoint = EndpointMapState { value, container_id, mac: Mac::new(mac) };
        map_state.endpoints.insert(ifindex, endpoint);
        map_state.egress_marks.insert(number, ifindex);
        let addr = Addr::from_v4(address.octets());
        map_state.addresses.insert(AddressKey { ifindex, addr });
        map_state.identities.insert(addr, PEERS);
        for direction in Direction::ALL {
            map_state.allow.insert(AllowMapKey::new(ifindex, direction), Arc::clone(&allowed));
        }
    }
    map_state
}

/// Row 20.
///
/// # Errors
/// The set-up failed, or packets go another way than they should.
pub fn measure(run: &mut Run) -> Result<()> {
    let n_peers = u16::try_from(run.size(10_000, 50))?;
    let n = u32::try_from(run.size(20_000, 200))?;
    let recipes = [
        (NONE, Recipe::None),
        ("empty program, TCX", Recipe::Empty),
        ("netpol", Recipe::Netpol { traits: 0 }),
        (SHORT, Recipe::Netpol { traits: EndpointValue::SHORT_CUT }),
    ];
    for conntrack in [Conntrack::On, Conntrack::Off] {
        let mut contenders = Vec::new();
        for (number, (name, recipe)) in recipes.into_iter().enumerate() {
            let contender = Contender::create(number, name, recipe, n_peers, conntrack);
            contenders.push(contender.with_context(|| format!("setting up {name}"))?);
        }
        let tracking = if conntrack == Conntrack::On { "conntrack" } else { "no conntrack" };
        for protocol in [Protocol::TCP, Protocol::UDP] {
            let word = match protocol {
                Protocol::TCP => "TCP",
                Protocol::UDP => "UDP",
                other => bail!("no name for protocol {}", other.0),
            };
            let series = run.interleaved(
                &format!("round trip between two pods, {word}, {tracking}"),
                Unit::Nanos,
                &mut contenders,
                |contender| contender.name.to_owned(),
                |contender, _| contender.round_trips(protocol, n),
            )?;
            if conntrack == Conntrack::On && protocol == Protocol::TCP {
                let note = format!("{n_peers} peers, IPv4, TCP");
                run.answer("20", series.ratio(SHORT, NONE)?, &note)?;
            }
            run.add(series.noted(&format!(
                "Nanoseconds a round trip of one byte, {n} of one connection; both pods are isolated, {n_peers} peers."
            )));
        }
    }
    Ok(())
}
