//! Connections under changing policies: packets follow the current policy, and answers need no rule of their own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Result, bail};
use fastrand::Rng;
use netpol_common::addr::Addr;
use netpol_common::ids::{IfIndex, Nanos};
use netpol_lab::case::{Case, End, Port, Probe, Protocol};
use netpol_lab::generator::Draw as _;
use netpol_lab::oracle::Oracle;
use netpol_lab::oracles::read;
use netpol_lab::wire::{Nat, Packet, SYN, Segment, SharedMaps, Wire};
use netpol_policy::store::ClusterState;

/// The virtual address of the generator's Services.
const VIP: &str = "10.96.0.10";

/// A connection whose first packet has been sent.
#[derive(Clone, Debug)]
struct Connection {
    first: Packet,
    /// The same, as a probe.
    probe: Probe,
    /// Service NAT, if any.
    nat: Nat,
    /// The interfaces and sandboxes of its ends.
    ends: [Interface; 2],
    /// Whether the first packet passed.
    is_open: bool,
}

type Interface = Option<(IfIndex, String)>;

/// The interface of an address.
fn interface(state: &ClusterState, address: IpAddr) -> Interface {
    let pod = state.owner(address)?;
    let endpoint = state.endpoints().find(|endpoint| endpoint.pod == pod.name)?;
    Some((endpoint.ifindex, endpoint.container_id.to_string()))
}

/// Starts one of the case's probes, from an unused port.
fn begin(case: &Case, rng: &mut Rng, wire: &Wire, from: u16) -> Option<Connection> {
    let oracle = Oracle::new(&case.objects);
    let probe = rng.choice(&case.probes)?;
    let (src, dst, to) = oracle.connection(probe)?;
    let segment = match probe.protocol {
        Protocol::Tcp => Segment::Tcp { from, to, flags: SYN },
        Protocol::Udp => Segment::Udp { from, to },
        Protocol::Sctp => Segment::Sctp { from, to },
    };
    let state = wire.cluster.state();
    let ends = [interface(state, src), interface(state, dst)];
    let vip: IpAddr = VIP.parse().ok()?;
    // Connections through a Service are generated below.
    if dst == vip {
        return None;
    }
    let has_vip = wire.cluster.map_state().defer.contains(&Addr::from(vip));
    let is_between_pods = ends.iter().all(Option::is_some) && ends[0] != ends[1];
    let nat = if has_vip && is_between_pods && src.is_ipv4() && rng.chance(40) {
        Nat::Destination(vip)
    } else {
        Nat::None
    };
    let question = Probe {
        from: End::Address { ip: src },
        to: End::Address { ip: dst },
        port: Port::Number(to),
        protocol: probe.protocol,
    };
    let first = Packet { src, dst, segment };
    Some(Connection { first, probe: question, nat, ends, is_open: false })
}

/// A packet to send.
struct Action {
    what: &'static str,
    packet: Packet,
    nat: Nat,
}

impl Connection {
    /// A later packet, in either direction; an answer only if the first packet arrived.
    fn go_on(&self, rng: &mut Rng) -> Action {
        if self.is_open && rng.chance(50) {
            let nat = match self.nat {
                Nat::Destination(vip) => Nat::Source(vip),
                Nat::None | Nat::Source(_) => Nat::None,
            };
            return Action { what: "answer", packet: self.first.reply(), nat };
        }
        Action { what: "further packet", packet: self.first.next(), nat: self.nat }
    }
}

/// How often packets of each kind passed and dropped.
type Counts = BTreeMap<(&'static str, bool), usize>;

/// Sends packets of several connections while the cluster changes.
fn follow(cases: &[Case], rng: &mut Rng, counts: &mut Counts) -> Result<()> {
    let mut wire = Wire::new(SharedMaps::memory());
    let mut connections: Vec<Connection> = Vec::new();
    let (mut now_ns, mut next_port) = (1_000_000_000, 20_000);
    let mut log = Vec::new();
    for case in cases {
        wire.set(read(&case.objects).0)?;
        log.push(case.name.clone());
        let state = wire.cluster.state();
        connections.retain(|connection| {
            let Packet { src, dst, .. } = connection.first;
            connection.ends == [interface(state, src), interface(state, dst)]
        });
        let oracle = Oracle::new(&case.objects);
        for _ in 0..60 {
            now_ns += 1_000_000;
            let begins = connections.is_empty() || rng.chance(35);
            if begins {
                next_port += 1;
                let Some(connection) = begin(case, rng, &wire, next_port) else {
                    continue;
                };
                connections.push(connection);
            }
            let index = if begins { connections.len() - 1 } else { rng.usize(..connections.len()) };
            let Some(connection) = connections.get_mut(index) else { continue };
            let action = if begins {
                Action { what: "first packet", packet: connection.first, nat: connection.nat }
            } else {
                connection.go_on(rng)
            };
            let is_allowed = oracle.allows(&connection.probe);
            let walk = wire.send(&action.packet, action.nat, Nanos(now_ns))?;
            let passes = walk.passes();
            log.push(format!("{} {:?} {:?}: {walk:?}", action.what, action.packet, action.nat));
            if begins {
                connection.is_open = passes;
            }
            *counts.entry((action.what, passes)).or_default() += 1;
            if passes != is_allowed {
                let relevant: Vec<&String> = log
                    .iter()
                    .filter(|line| {
                        line.contains(&connection.first.src.to_string()) || line.starts_with("seed")
                    })
                    .collect();
                bail!(
                    "{}: {} {:?} {}: {walk:?}\n{relevant:#?}",
                    case.name,
                    action.what,
                    connection.probe.to_string(),
                    if passes {
                        "passes although it is denied"
                    } else {
                        "drops although it is allowed"
                    },
                );
            }
        }
    }
    Ok(())
}

#[test]
fn connections_follow_the_current_policy_and_answers_need_no_rule() -> Result<()> {
    let counts = RefCell::new(Counts::new());
    super::check_network_policies(150, |cases, rng| follow(cases, rng, &mut counts.borrow_mut()))?;
    let counts = counts.into_inner();
    for what in ["first packet", "further packet", "answer"] {
        for passes in [true, false] {
            if counts.get(&(what, passes)).is_none_or(|count| *count < 10) {
                bail!("too few packets of some kind: {counts:?}");
            }
        }
    }
    Ok(())
}
