//! Verdicts on single packets: `BPF_PROG_TEST_RUN`, net of an empty program.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::PacketBuilder;
use netpol_datapath::{Datapath, Program, TestContext};
use netpol_policy::dataplane::port::Maps as _;

use super::lane::{Family, peer, peer_v4, pod, stranger, tuple};
use super::netpol::{Peers, frame, map_state, private};
use super::reference::Programs;
use super::{PORT, flood::Tuple};
use crate::Run;
use crate::gates::Unit;

/// The hook's device, which exists in every namespace, and the ingress device.
const CONTEXT: TestContext = TestContext { ifindex: 1, ingress_ifindex: 2, mark: 0 };
/// The client's port.
const FROM: u16 = 5_000;
/// `TCX_NEXT` and `TC_ACT_SHOT`.
pub(super) const PASS: i32 = -1;
const DROP: i32 = 2;
pub(super) const EMPTY: &str = "an empty program";

/// A program under test.
pub(super) enum Subject {
    Reference(Box<Programs>, &'static str),
    Netpol(Box<Datapath>, Program),
}

impl Subject {
    /// The action on a frame, and the time of one run.
    pub(super) fn time(&mut self, frame: &[u8], n_runs: u32) -> Result<(i32, Duration)> {
        match self {
            Self::Reference(programs, name) => programs.time(name, frame, n_runs),
            Self::Netpol(datapath, program) => {
                let (outcome, time) = datapath.time_runs(*program, frame, CONTEXT, n_runs)?;
                Ok((outcome.action, time))
            }
        }
    }
}

/// A packet and a program.
struct Case {
    name: String,
    subject: Subject,
    frame: Vec<u8>,
    /// The expected action.
    action: i32,
}

/// A kind of packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Udp,
    Syn,
    Ack,
}

pub(super) fn packet(kind: Kind, ends: Tuple) -> Result<Vec<u8>> {
    let Tuple { from, to } = ends;
    let builder = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64)
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            PacketBuilder::ipv6(from.ip().octets(), to.ip().octets(), 64)
        }
        (from, to) => anyhow::bail!("no packet goes from {from} to {to}"),
    };
    let mut bytes = Vec::new();
    match kind {
        Kind::Udp => return Ok(frame(&ends.packet()?, to.ip())),
        Kind::Syn => builder.tcp(from.port(), to.port(), 1, 1000).syn().write(&mut bytes, &[])?,
        Kind::Ack => builder.tcp(from.port(), to.port(), 1, 1000).ack(1).write(&mut bytes, &[])?,
    }
    Ok(frame(&bytes, to.ip()))
}

/// A packet of an established flow of netpol, in either direction.
fn netpol(
    name: &str,
    image_of: (u16, Peers),
    isolated: u8,
    program: Program,
    kind: Kind,
    ends: Tuple,
    action: i32,
) -> Result<Case> {
    let (n_pods, peers) = image_of;
    let mut datapath = private(n_pods, peers)?;
    let before = map_state(netpol_common::ids::IfIndex(1), n_pods, peers);
    let mut after = before.clone();
    for endpoint in after.endpoints.values_mut() {
        endpoint.value.isolated = isolated;
    }
    datapath.apply(&netpol_policy::dataplane::diff(&before, &after))?;
    if action == PASS {
        let kinds = if kind == Kind::Udp { [Kind::Udp; 2] } else { [Kind::Syn, Kind::Ack] };
        let inward = [(Program::PodIngress, ends), (Program::PodEgress, ends.reversed())];
        let outward = [(Program::PodEgress, ends), (Program::PodIngress, ends.reversed())];
        let order = if program == Program::PodIngress { inward } else { outward };
        for ((program, ends), kind) in order.into_iter().zip(kinds) {
            let outcome = datapath.test_run(program, &packet(kind, ends)?, CONTEXT)?;
            ensure!(outcome.is_pass(), "{name}: {program:?} drops {ends:?}");
        }
    }
    Ok(Case {
        name: format!("netpol, {name}"),
        subject: Subject::Netpol(Box::new(datapath), program),
        frame: packet(kind, ends)?,
        action,
    })
}

fn reference(name: &str, n_peers: u16, ends: Tuple, action: i32) -> Result<Case> {
    let mut programs = Programs::load(super::reference::OWN_N_FLOWS)?;
    let peers: Vec<_> = (0..n_peers).map(peer_v4).collect();
    programs.allow(&peers, PORT)?;
    let frame = packet(Kind::Udp, ends)?;
    Ok(Case {
        name: format!("reference, {name}"),
        subject: Subject::Reference(Box::new(programs), "reference"),
        frame,
        action,
    })
}

fn cases(n_peers: u16) -> Result<Vec<Case>> {
    use Program::{PodEgress, PodIngress};
    let pods = (1, Peers::Pods(n_peers));
    let blocks = (1, Peers::Blocks(n_peers));
    let from_peer = |family| tuple(peer(n_peers / 2, family), FROM);
    let from_stranger = |family| tuple(stranger(7, family), FROM);
    let to_peer = |family| {
        let from = SocketAddr::new(pod(0, family), FROM);
        Tuple { from, to: SocketAddr::new(peer(n_peers / 2, family), PORT) }
    };
    let both =
        netpol_common::ids::Direction::Ingress.bit() | netpol_common::ids::Direction::Egress.bit();
    let mut cases = vec![
        Case {
            name: EMPTY.into(),
            subject: Subject::Reference(Box::new(Programs::load(1)?), "nop"),
            frame: packet(Kind::Udp, from_peer(Family::V4))?,
            action: PASS,
        },
        reference("established UDP IPv4", n_peers, from_peer(Family::V4), PASS)?,
        reference("deny IPv4", n_peers, from_stranger(Family::V4), DROP)?,
    ];
    for (family, word) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let mut add = |name: &str, of, isolated, program, kind, ends, action| -> Result<()> {
            let name = format!("{name} {word}");
            cases.push(netpol(&name, of, isolated, program, kind, ends, action)?);
            Ok(())
        };
        add("established UDP", pods, both, PodIngress, Kind::Udp, from_peer(family), PASS)?;
        add("established TCP", pods, both, PodIngress, Kind::Ack, from_peer(family), PASS)?;
        add("established UDP, egress", pods, both, PodEgress, Kind::Udp, to_peer(family), PASS)?;
        add(
            "established UDP, not isolated",
            pods,
            0,
            PodIngress,
            Kind::Udp,
            from_peer(family),
            PASS,
        )?;
        add("SYN (decided anew)", pods, both, PodIngress, Kind::Syn, from_peer(family), PASS)?;
        add("SYN, egress", pods, both, PodEgress, Kind::Syn, to_peer(family), PASS)?;
        add("SYN, peers are blocks", blocks, both, PodIngress, Kind::Syn, from_peer(family), PASS)?;
        add("SYN, not isolated", pods, 0, PodIngress, Kind::Syn, from_peer(family), PASS)?;
        add("deny", pods, both, PodIngress, Kind::Udp, from_stranger(family), DROP)?;
        add(
            "deny, peers are blocks",
            blocks,
            both,
            PodIngress,
            Kind::Udp,
            from_stranger(family),
            DROP,
        )?;
    }
    Ok(cases)
}

/// Rows 1 and 7.
///
/// # Errors
/// The kernel refused a run, or a verdict is wrong.
pub fn measure(run: &mut Run) -> Result<()> {
    let n_peers = u16::try_from(run.size(10_000, 100))?;
    let n_runs = u32::try_from(run.size(400_000, 100))?;
    let mut cases = cases(n_peers)?;
    let title = "verdict on one packet, test run";
    let name = |case: &Case| case.name.clone();
    let series = run.interleaved(title, Unit::Nanos, &mut cases, name, |case, _| {
        let (action, time) = case.subject.time(&case.frame, n_runs)?;
        ensure!(action == case.action, "{} returns {action}", case.name);
        Ok(super::precise(time))
    })?;
    let series = series.over(EMPTY).noted(&format!(
        "The same packet {n_runs} times, {n_peers} peers: everything that it needs is in the nearest cache. What a drop is \
         counted by and the records that it writes are included.",
    ));
    let established = "reference, established UDP IPv4";
    let ratio = series.ratio_of_added("netpol, established UDP IPv4", established)?;
    run.answer("1", ratio, "UDP IPv4")?;
    let ratio = series.ratio_of_added("netpol, deny IPv4", "reference, deny IPv4")?;
    run.answer("7", ratio, "ours counts and reports the drop, the reference does not")?;
    run.add(series);
    Ok(())
}
