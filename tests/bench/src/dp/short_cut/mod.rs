//! Round trips between two pods of a node or of two nodes, with the short cut and without.
//!
//! One byte goes to and fro between two threads on one processor, so the time contains all that the kernel does for both packets.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use netpol_common::ids::Protocol;
use netpol_common::keys::EndpointValue;
use netpol_datapath::Datapath;
use netpol_lab::node::netns::{self, Netns};
use netpol_policy::dataplane::port::Flows as _;

use self::wiring::{Conntrack, Layout, install, wire};
use super::lane::{PORT, PREFIX};
use super::netfilter::Rules;
use super::reference::Programs;
use crate::Run;
use crate::clock::nanos;
use crate::gates::Unit;

mod wiring;

const NONE: &str = "no policy";
const SHORT: &str = "netpol, short cut";
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The configuration of a node.
#[derive(Clone, Copy)]
enum Recipe {
    None,
    Empty,
    /// With these [traits](EndpointValue::traits) of both pods.
    Netpol {
        traits: u8,
    },
    Netfilter(Rules),
}

/// What a configuration keeps in the kernel.
enum Means {
    None,
    Empty(#[expect(dead_code, reason = "dropped, it detaches")] Programs),
    /// On each node.
    Netpol {
        datapaths: Vec<(Datapath, PathBuf)>,
        is_short: bool,
    },
    Netfilter,
}

/// Both ends of a connection: the client's is used here, the other one echoes in a thread.
struct Connection<C> {
    client: C,
    _echo: JoinHandle<()>,
}

/// A node with its pods.
struct Contender {
    name: &'static str,
    nodes: Vec<Netns>,
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
        (layout, conntrack): (Layout, Conntrack),
    ) -> Result<Self> {
        let make = |part: &str| {
            let kind = format!("{}{}", layout.letter(), u8::from(conntrack == Conntrack::On));
            Netns::create(&format!("{PREFIX}{}-{kind}{number}{part}", std::process::id()))
        };
        let nodes = ["m", "n"].into_iter().take(layout.n_nodes());
        let nodes = nodes.map(make).collect::<Result<Vec<_>>>()?;
        let pods = [make("a")?, make("b")?];
        wire(layout, &nodes, &pods, conntrack)?;
        let means = install(layout, &nodes, recipe, n_peers)?;
        let server = SocketAddr::from((layout.pods()[1].address, PORT));
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
        Ok(Self { name, nodes, pods, means, tcp, udp })
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
        if let Means::Netpol { datapaths, is_short } = &self.means {
            let mut n_redirected = 0;
            for (datapath, _) in datapaths {
                let flows = datapath.flows()?.into_iter();
                let redirected =
                    flows.filter(|(key, flow)| key.protocol == protocol && flow.redirect.0 != 0);
                n_redirected += redirected.count();
            }
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
        if let Means::Netpol { datapaths, .. } = &self.means {
            for (_, pins) in datapaths {
                fs::remove_dir_all(pins).ok();
            }
        }
        for netns in self.nodes.iter().chain(&self.pods) {
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

/// Rows 20, 21 and 22.
///
/// # Errors
/// The set-up failed, or packets go another way than they should.
pub fn measure(run: &mut Run) -> Result<()> {
    for (layout, row) in [(Layout::OneNode, "20"), (Layout::TwoNodes, "21")] {
        for conntrack in [Conntrack::On, Conntrack::Off] {
            measure_with(run, layout, conntrack, row)?;
        }
    }
    Ok(())
}

/// Those of rows 2 and 3, with the row that compares the short cut with each.
fn peers(n_peers: u16) -> [(&'static str, &'static str, Rules); 3] {
    let chains = |n_pods| Rules::PodChains { n_pods, n_peers };
    [
        ("22a", "conntrack + nft set", Rules::NftSet { n_peers }),
        ("22b", "chains as kube-router's, 30 pods", chains(30)),
        ("22c", "chains as kube-router's, 110 pods", chains(110)),
    ]
}

fn measure_with(
    run: &mut Run,
    layout: Layout,
    conntrack: Conntrack,
    row: &'static str,
) -> Result<()> {
    let n_peers = u16::try_from(run.size(10_000, 50))?;
    let n = u32::try_from(run.size(20_000, 200))?;
    let mut recipes = vec![
        (NONE, Recipe::None),
        ("empty program, TCX", Recipe::Empty),
        ("netpol", Recipe::Netpol { traits: 0 }),
        (SHORT, Recipe::Netpol { traits: EndpointValue::SHORT_CUT }),
    ];
    let has_peers = layout == Layout::OneNode && conntrack == Conntrack::On;
    if has_peers {
        recipes.extend(peers(n_peers).map(|(_, name, rules)| (name, Recipe::Netfilter(rules))));
    }
    let mut contenders = Vec::new();
    for (number, (name, recipe)) in recipes.into_iter().enumerate() {
        let contender = Contender::create(number, name, recipe, n_peers, (layout, conntrack));
        contenders.push(contender.with_context(|| format!("setting up {name}"))?);
    }
    let tracking = if conntrack == Conntrack::On { "conntrack" } else { "no conntrack" };
    let between = layout.words();
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let word = match protocol {
            Protocol::TCP => "TCP",
            Protocol::UDP => "UDP",
            other => bail!("no name for protocol {}", other.0),
        };
        let series = run.interleaved(
            &format!("round trip between two pods{between}, {word}, {tracking}"),
            Unit::Nanos,
            &mut contenders,
            |contender| contender.name.to_owned(),
            |contender, _| contender.round_trips(protocol, n),
        )?;
        if conntrack == Conntrack::On && protocol == Protocol::TCP {
            let note = format!("{n_peers} peers, IPv4, TCP");
            run.answer(row, series.ratio(SHORT, NONE)?, &note)?;
        }
        let series = series.over(NONE);
        if has_peers && protocol == Protocol::UDP {
            for (row, peer, _) in peers(n_peers) {
                run.answer(row, series.ratio_of_added(SHORT, peer)?, "round trips, UDP")?;
            }
        }
        run.add(series.noted(&format!(
            "Nanoseconds a round trip of one byte, {n} of one connection; both pods are isolated, {n_peers} peers."
        )));
    }
    Ok(())
}
