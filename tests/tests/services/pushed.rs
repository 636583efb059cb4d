//! Packets that a backend pushes to a client that only listens, so that no packet of the client notices a policy change.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use netpol_lab::node::netns::Netns;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Bridge, Family, Host, Lab, Masquerade, Passing, Service, Shape, labels};
use serde_json::json;

use crate::cluster::{
    apply_policy, can_run, egress_only_to, expect, lab, pod, policy_file, sockets,
    wait_for_services,
};

/// A port on which only the backends listen.
const PORT: u16 = 81;

/// Time limit for a datagram, ample on one machine.
const PATIENCE: Duration = Duration::from_millis(200);

/// Number of datagrams that must all arrive, or all drop.
const N_PUSHED: usize = 20;

/// A client and a backend that have exchanged one datagram through a Service.
struct Line {
    name: String,
    client: UdpSocket,
    backend: UdpSocket,
    /// The client's address from the backend's view.
    peer: SocketAddr,
}

impl Line {
    fn open(service: &Service, client: &Netns, backend: &Netns, family: Family) -> Result<Self> {
        let vip = service.socket_address(family)?;
        let mut real = service.backends.iter();
        let real = real.find(|real| real.is_ipv4() == vip.is_ipv4()).context("no backend")?;
        let backend = backend.inside(|| socket(*real))?;
        let client = client.inside(|| socket(any(family)))?;
        let name = format!("{}, {vip}", service.name);
        let peer = until(&format!("a datagram through {name}"), LIMIT, || {
            client.send_to(b"question", vip)?;
            Ok(match received(&backend)? {
                Some(peer) => Look::Done(peer),
                None => Look::NotYet("nothing".to_owned()),
            })
        })?;
        let line = Self { name, client, backend, peer };
        line.wait_until(Passing::Yes)?;
        Ok(line)
    }

    /// Sends from the backend until the datagrams arrive, or do not arrive.
    fn wait_until(&self, passing: Passing) -> Result<()> {
        until(&format!("{}: pushed datagrams pass: {passing:?}", self.name), LIMIT, || {
            let is_done = self.push()? == passing;
            Ok(if is_done { Look::Done(()) } else { Look::NotYet("the opposite".to_owned()) })
        })
    }

    fn push(&self) -> Result<Passing> {
        self.backend.send_to(b"news", self.peer)?;
        Ok(if received(&self.client)?.is_some() { Passing::Yes } else { Passing::No })
    }

    /// Sends many datagrams; checks that all arrive, or none.
    fn expect(&self, passing: Passing) -> Result<()> {
        for _ in 0..N_PUSHED {
            self.backend.send_to(b"news", self.peer)?;
        }
        let mut n_received = 0;
        while n_received < N_PUSHED && received(&self.client)?.is_some() {
            n_received += 1;
        }
        let expected = if passing == Passing::Yes { N_PUSHED } else { 0 };
        ensure!(n_received == expected, "{}: {n_received} of {N_PUSHED} came", self.name);
        Ok(())
    }
}

fn any(family: Family) -> SocketAddr {
    let address: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(address, 0)
}

fn socket(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("opening {address}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// The source of the next datagram, if one arrives in time.
fn received(socket: &UdpSocket) -> Result<Option<SocketAddr>> {
    match socket.recv_from(&mut [0; 64]) {
        Ok((_, peer)) => Ok(Some(peer)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(None)
        }
        Err(error) => bail!(error),
    }
}

/// The lab with a client, a backend on its node and one on another node, and a Service for each.
fn with_services(
    name: &str,
    shape: Shape,
    bridge: Bridge,
    test: impl FnOnce(&Lab, &[(Service, Netns)]) -> Result<()>,
) {
    if !can_run() {
        return;
    }
    let mut second_node = None;
    let lab = lab(name, &["client", "near"], |lab| {
        second_node = Some(lab.add_second_node("default/far", &labels(&[("app", "far")]))?);
        match bridge {
            Bridge::Filtered => lab.set_bridge(bridge),
            Bridge::Plain => lab.set_bridge(bridge).or(Ok(())),
        }
    });
    let far: Vec<_> = netpol_lab::node::second_node::POD.map(|a| SocketAddr::new(a, PORT)).into();
    let services =
        [Service::new("near", 1, sockets(&lab, &pod("near"), PORT)), Service::new("far", 2, far)];
    let masquerade = match bridge {
        Bridge::Filtered => Masquerade::Outsiders,
        Bridge::Plain => Masquerade::All,
    };
    lab.apply_services(shape, masquerade, &services).unwrap();
    wait_for_services(&lab, &services);
    let near = lab.netns(&pod("near")).unwrap().clone();
    let [first, second] = services;
    let far = second_node.as_ref().unwrap().pod.clone();
    test(&lab, &[(first, near), (second, far)]).unwrap();
}

fn open_lines(lab: &Lab, services: &[(Service, Netns)]) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (service, backend) in services {
        for family in Family::BOTH {
            let client = lab.netns(&pod("client"))?;
            lines.push(Line::open(service, client, backend, family)?);
        }
    }
    Ok(lines)
}

fn peers(names: &[&str]) -> serde_json::Value {
    names.iter().map(|name| json!({ "podSelector": { "matchLabels": { "app": name } } })).collect()
}

fn follows_the_policy(name: &str, shape: Shape, bridge: Bridge) {
    with_services(name, shape, bridge, |lab, services| {
        let policy = |names: &[&str]| {
            apply_policy(lab, "egress", &json!({}), &egress_only_to("client", &peers(names)));
        };
        // The client is not isolated yet.
        let lines = open_lines(lab, services)?;
        policy(&["x"]);
        for line in &lines {
            line.wait_until(Passing::No)?;
            line.expect(Passing::No)?;
        }
        // One backend is allowed again, the other is not.
        policy(&["far"]);
        for line in &lines {
            let passing = if line.name.starts_with("far") { Passing::Yes } else { Passing::No };
            line.wait_until(passing)?;
            line.expect(passing)?;
        }
        policy(&["near", "far"]);
        for line in &lines {
            line.wait_until(Passing::Yes)?;
            line.expect(Passing::Yes)?;
        }
        policy(&["near"]);
        for line in &lines {
            let passing = if line.name.starts_with("near") { Passing::Yes } else { Passing::No };
            line.wait_until(passing)?;
            line.expect(passing)?;
        }
        lab.manifests().remove(&policy_file("egress"))?;
        for line in &lines {
            line.wait_until(Passing::Yes)?;
        }
        Ok(())
    });
}

#[test]
fn what_a_backend_pushes_follows_the_policy_with_nftables() {
    follows_the_policy("push-nft", Shape::Nftables, Bridge::Plain);
}

#[test]
fn what_a_backend_pushes_follows_the_policy_with_iptables_and_a_filtered_bridge() {
    if !netpol_lab::privilege::met(&[crate::cluster::FILTERED_BRIDGE]) {
        return;
    }
    follows_the_policy("push-ipt", Shape::Iptables, Bridge::Filtered);
}

/// Pod and backend may cooperate: a dropped datagram to the Service must not permit the backend's answer.
#[test]
fn a_dropped_attempt_does_not_permit_an_answer() {
    // Without masquerading the backend knows the client's address and port, which netfilter would translate.
    if !netpol_lab::privilege::met(&[crate::cluster::FILTERED_BRIDGE]) {
        return;
    }
    with_services("push-refused", Shape::Iptables, Bridge::Filtered, |lab, services| {
        let lines = open_lines(lab, services)?;
        let isolate = json!({
            "podSelector": { "matchLabels": { "app": "client" } },
            "policyTypes": ["Ingress", "Egress"],
        });
        apply_policy(lab, "isolate", &json!({}), &isolate);
        expect(lab, &pod("client"), &[(Passing::No, sockets(lab, &Host::Office, 80))]);
        expect(lab, &pod("near"), &[(Passing::No, sockets(lab, &pod("client"), 80))]);
        for line in &lines {
            line.expect(Passing::No)?;
        }
        // Another client port, because netfilter's entry of the attempt would translate the answers.
        for (service, _) in services {
            for family in Family::BOTH {
                let vip = service.socket_address(family)?;
                let line = lines.iter().find(|line| line.name.ends_with(&vip.to_string()));
                let line = line.context("no line")?;
                let client = lab.netns(&pod("client"))?.inside(|| socket(any(family)))?;
                let to = SocketAddr::new(
                    lab.socket_address(&pod("client"), family, 0)?.ip(),
                    client.local_addr()?.port(),
                );
                for _ in 0..N_PUSHED {
                    client.send_to(b"come in", vip)?;
                    for peer in [to, SocketAddr::new(line.peer.ip(), to.port())] {
                        // Sending may fail without a route to the translated address.
                        line.backend.send_to(b"thanks", peer).ok();
                    }
                }
                ensure!(received(&client)?.is_none(), "{}: an answer came", line.name);
            }
        }
        Ok(())
    });
}
