//! A pod's flood of new connections does not affect established connections of other pods.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netpol_lab::node::{Family, Lab, Passing, Stream};
use netpol_lab::probe::Protocol;
use netpol_policy::dataplane::port::Flows as _;
use serde_json::json;

use crate::cluster::{apply_policy, can_run, expect, lab, maps, pod, sockets};

/// A further port of the server.
const PORT: u16 = 81;

/// Source ports of the floods, each a connection.
const PORTS: RangeInclusive<u16> = 1024..=u16::MAX;

/// Sockets of the unanswered flood.
const N_SOURCES: u16 = 5;

/// Minimum number of flows that the flood must leave.
const N_LEFT: usize = 20_000;

/// Interval between messages of the streams, microseconds.
const PACE_US: u64 = 5000;

/// Time limit for an answer, ample on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connected pair of sockets.
struct Line {
    client: TcpStream,
    server: TcpStream,
}

impl Line {
    fn open(lab: &Lab, family: Family) -> Result<Self> {
        let address = lab.socket_address(&pod("server"), family, PORT)?;
        let listener = lab.netns(&pod("server"))?.inside(|| Ok(TcpListener::bind(address)?))?;
        let client = lab.netns(&pod("client"))?.inside(|| Ok(TcpStream::connect(address)?))?;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
        }
        let mut line = Self { client, server };
        line.talk()?;
        Ok(line)
    }

    /// Sends a message and receives the answer.
    fn talk(&mut self) -> Result<()> {
        let mut byte = [0];
        self.client.write_all(b"?")?;
        self.server.read_exact(&mut byte).context("waiting for the question")?;
        self.answer()
    }

    /// Sends a message from the server.
    fn answer(&mut self) -> Result<()> {
        self.server.write_all(b"!")?;
        self.client.read_exact(&mut [0]).context("waiting for the answer")
    }
}

/// Sends datagrams from one pod to another, each a new connection; few are answered.
fn flood(lab: &Lab, from: &str, to: &str, family: Family) -> Result<()> {
    let target = lab.socket_address(&pod(to), family, 0)?.ip();
    lab.netns(&pod(from))?.inside(|| {
        for _ in 0..N_SOURCES {
            let socket = UdpSocket::bind((any(family), 0))?;
            for port in PORTS {
                // Delivery does not matter; some are answered by ICMP errors.
                socket.send_to(b"x", (target, port)).ok();
            }
        }
        Ok(())
    })
}

/// The same with an answer to each datagram.
fn answered_flood(lab: &Lab, from: &str, to: &str, family: Family) -> Result<()> {
    let addr = lab.socket_address(&pod(to), family, 80)?;
    lab.netns(&pod(from))?.inside(|| {
        for port in PORTS {
            // The adjacent port belongs to another socket.
            let Ok(socket) = UdpSocket::bind((any(family), port)) else { continue };
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            socket.send_to(b"x", addr)?;
            // Lost datagrams do not matter.
            socket.recv(&mut [0; 1]).ok();
        }
        Ok(())
    })
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[test]
fn a_flood_of_new_connections_does_not_break_the_established_ones_of_other_pods() {
    if !can_run() {
        return;
    }
    let lab = lab("flood", &["server", "client", "evil", "sink"], |_| Ok(()));
    let peer = |name: &str| json!([{ "podSelector": { "matchLabels": { "app": name } } }]);
    // Isolated in both directions, so that an answer without a flow drops.
    let server = json!({
        "podSelector": { "matchLabels": { "app": "server" } },
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "from": peer("client") }],
    });
    let client = json!({
        "podSelector": { "matchLabels": { "app": "client" } },
        "policyTypes": ["Ingress", "Egress"],
        "egress": [{ "to": peer("server") }],
    });
    apply_policy(&lab, "server", &json!({}), &server);
    apply_policy(&lab, "client", &json!({}), &client);
    let addrs = sockets(&lab, &pod("server"), 80);
    expect(&lab, &pod("evil"), &[(Passing::No, addrs.clone())]);
    expect(&lab, &pod("client"), &[(Passing::Yes, addrs.clone())]);
    check(&lab, &addrs).unwrap();
}

fn check(lab: &Lab, addrs: &[SocketAddr]) -> Result<()> {
    let mut lines = Vec::new();
    let mut streams = Vec::new();
    for family in Family::BOTH {
        lines.push(Line::open(lab, family)?);
    }
    for &addr in addrs {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            streams.push(lab.stream(&pod("client"), protocol, addr, PACE_US)?);
        }
    }
    for stream in &mut streams {
        stream.wait_for_answers(50)?;
    }
    for send in [flood, answered_flood] {
        for family in Family::BOTH {
            send(lab, "evil", "sink", family)?;
        }
        survives(lab, &mut lines, &mut streams)?;
    }
    for stream in streams {
        let report = stream.finish()?;
        ensure!(report.error.is_none(), "{report:?}");
    }
    Ok(())
}

fn survives(lab: &Lab, lines: &mut [Line], streams: &mut [Stream]) -> Result<()> {
    let evil = lab.host_interface("default/evil")?.1;
    let flows = maps(lab).flows()?;
    let n_of_evil = flows.keys().filter(|key| key.ifindex.0 == evil).count();
    ensure!(n_of_evil > N_LEFT, "the flood left {n_of_evil} of {} flows", flows.len());
    for stream in streams {
        stream.wait_for_answers(50)?;
    }
    // These connections were idle during the flood.
    for line in lines {
        line.answer()?;
        line.talk()?;
    }
    Ok(())
}
