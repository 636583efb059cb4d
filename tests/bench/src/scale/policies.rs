//! Realistic policies: own applications, other teams, DNS, external addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use netpol_policy::model::{
    IpBlock, NamespaceMatch, ObjectName, Peer, Peers, Policy, PolicyMode, PolicyTypes, PortMatch,
    PortName, PortRange, PortSpec, Ports, Requirement, Revision, Rule, Selector, Transport,
};

use super::{N_TEAMS, namespace_name};

const APP: &str = "app.kubernetes.io/name";

fn with(key: &str, value: &str) -> Selector {
    Selector::new([Requirement::In(Arc::from(key), [Arc::from(value)].into())])
}

fn port(transport: Transport, number: u16) -> Option<PortMatch> {
    Some(PortMatch { transport, ports: PortSpec::Range(PortRange::single(number)?) })
}

fn named(name: &str) -> Option<PortMatch> {
    Some(PortMatch { transport: Transport::Tcp, ports: PortSpec::Named(PortName::parse(name)?) })
}

fn rule(
    index: usize,
    peers: Vec<Peer>,
    ports: impl IntoIterator<Item = Option<PortMatch>>,
) -> Rule {
    let ports: Vec<_> = ports.into_iter().flatten().collect();
    let ports = if ports.is_empty() { Ports::All } else { Ports::AnyOf(ports) };
    Rule { index, peers: Peers::AnyOf(peers), ports }
}

/// The blocks 172.16.0.0/28 and so on, each with an exception.
pub fn ip_blocks(n_blocks: usize) -> Vec<Peer> {
    let block = |n: usize| {
        let first = 0xac10_0000_u32 + u32::try_from(n).unwrap_or(0) * 16;
        let network =
            |first: u32, bits| IpNetwork::new(IpAddr::V4(Ipv4Addr::from_bits(first)), bits);
        let (Ok(cidr), Ok(hole)) = (network(first, 28), network(first + 4, 30)) else {
            return None;
        };
        Some(Peer::IpBlock(IpBlock { cidr, except: vec![hole] }))
    };
    (0..n_blocks).filter_map(block).collect()
}

/// Policy number `n`: one of five kinds, for one application of one namespace.
pub fn policy(n: usize, n_namespaces: usize, n_apps: usize) -> Policy {
    let namespace = n % n_namespaces;
    let turn = n / n_namespaces;
    let app = format!("app-{}", turn % n_apps);
    let own = |selector| Peer::Pods { namespaces: NamespaceMatch::Own, pods: selector };
    let of =
        |namespaces, pods| Peer::Pods { namespaces: NamespaceMatch::Selected(namespaces), pods };
    let other = format!("app-{}", (turn + 1) % n_apps);
    let team = format!("team-{}", (7 * turn + namespace) % N_TEAMS);
    let (mut ingress, mut egress) = (Vec::new(), Vec::new());
    match (turn + namespace) % 5 {
        0 => ingress.push(rule(0, vec![own(with(APP, &other))], [port(Transport::Tcp, 8080)])),
        1 => {
            ingress.push(rule(0, vec![own(with("tier", "front"))], [named("http")]));
            let monitoring = of(with("team", &team), with("tier", "back"));
            ingress.push(rule(1, vec![monitoring], [port(Transport::Tcp, 9090)]));
        }
        2 => {
            let dns =
                of(with("kubernetes.io/metadata.name", &namespace_name(0)), with(APP, "app-0"));
            let both = [port(Transport::Udp, 53), port(Transport::Tcp, 53)];
            egress.push(rule(0, vec![dns], both));
            egress.push(rule(1, vec![own(with(APP, &other))], [named("http")]));
        }
        3 => {
            egress.push(rule(0, ip_blocks(4), [port(Transport::Tcp, 443)]));
            egress.push(rule(1, vec![own(Selector::everything())], []));
        }
        _ => {
            let nobody_else = Requirement::NotIn(Arc::from("tier"), [Arc::from("back")].into());
            let peers =
                vec![own(Selector::new([nobody_else])), of(with("team", &team), with(APP, &other))];
            ingress.push(rule(0, peers, [port(Transport::Tcp, 8080), port(Transport::Tcp, 8443)]));
        }
    }
    Policy {
        name: ObjectName::new(&namespace_name(namespace), &format!("policy-{turn:05}")),
        uid: Arc::from(format!("9a1b0000-0000-4000-8000-{n:012x}")),
        revision: Revision::default(),
        pod_selector: with(APP, &app),
        policy_types: PolicyTypes { ingress: !ingress.is_empty(), egress: !egress.is_empty() },
        ingress: ingress.into(),
        egress: egress.into(),
        mode: PolicyMode::Enforce,
        keeps_connections: false,
    }
}

/// A policy for all pods of a namespace that allows ingress from these peers.
pub fn select_all(namespace: usize, name: &str, peers: Vec<Peer>) -> Policy {
    Policy {
        name: ObjectName::new(&namespace_name(namespace), name),
        uid: Arc::default(),
        revision: Revision::default(),
        pod_selector: Selector::everything(),
        policy_types: PolicyTypes { ingress: true, egress: false },
        ingress: [rule(0, peers, [port(Transport::Tcp, 80)])].into(),
        egress: Arc::default(),
        mode: PolicyMode::Enforce,
        keeps_connections: false,
    }
}
