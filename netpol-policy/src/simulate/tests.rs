//! A changing cluster, evaluated by every engine.

use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::compile::{Capacities, Shared};
use crate::model::{
    BackendPort, ContainerPort, IpBlock, Labels, NamespaceMatch, Node, Object, ObjectName, Peer,
    Peers, Pod, PodPhase, Policy, PolicyMode, PolicyTypes, PortMatch, PortName, PortRange,
    PortSpec, Ports, Requirement, Revision, Rule, Selector, Service, ServicePort, Transport,
};

fn pod(name: &str, addresses: &[&str]) -> Pod {
    Pod {
        name: ObjectName::new("x", name),
        uid: Arc::from(""),
        static_uid: Arc::from(""),
        created_s: 0,
        labels: Labels::new(),
        node: Arc::from("n1"),
        reported_addresses: addresses.iter().map(|address| ip(address)).collect(),
        host_network: false,
        phase: PodPhase::Running,
        terminating: false,
        ports: [
            ContainerPort {
                name: PortName::parse("http"),
                transport: Transport::Tcp,
                number: 8080,
                host_port: None,
            },
            ContainerPort {
                name: PortName::parse("http"),
                transport: Transport::Tcp,
                number: 8081,
                host_port: None,
            },
        ]
        .into(),
        allows_forwarding: false,
        declines_short_cut: false,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Isolates every pod of the namespace in both directions, but for these rules.
fn policy(name: &str, ingress: Vec<Rule>, egress: Vec<Rule>) -> Object {
    Object::Policy(Policy {
        name: ObjectName::new("x", name),
        uid: Arc::from(""),
        revision: Revision::default(),
        pod_selector: Selector::everything(),
        policy_types: PolicyTypes { ingress: true, egress: true },
        ingress: ingress.into(),
        egress: egress.into(),
        mode: PolicyMode::Enforce,
        keeps_connections: false,
    })
}

fn rule(peers: Peers, port: Option<u16>) -> Rule {
    let item = |port| PortMatch {
        transport: Transport::Tcp,
        ports: PortSpec::Range(PortRange::single(port).unwrap()),
    };
    Rule { index: 0, peers, ports: port.map_or(Ports::All, |port| Ports::AnyOf(vec![item(port)])) }
}

fn block(cidr: &str) -> Peers {
    let block = IpBlock { cidr: cidr.parse().unwrap(), except: Vec::new() };
    Peers::AnyOf(vec![Peer::IpBlock(block)])
}

fn own_pods() -> Peers {
    Peers::AnyOf(vec![Peer::Pods { namespaces: NamespaceMatch::Own, pods: Selector::everything() }])
}

fn node(name: &str, address: &str) -> Object {
    Object::Node(Node {
        name: Arc::from(name),
        labels: Labels::default(),
        addresses: vec![ip(address)],
        pod_ranges: Vec::new(),
    })
}

fn end(text: &str) -> PodOrIp {
    text.parse().map_or_else(|_| PodOrIp::pod("x", text), PodOrIp::Address)
}

fn engines() -> [Cluster; 2] {
    [Cluster::new(Engine::Reference), Cluster::new(Engine::compiled())]
}

/// Both engines give these verdicts in a cluster of these objects.
#[track_caller]
fn check(objects: &[Object], expected: &[(&str, &str, u16, bool)]) {
    for mut cluster in engines() {
        cluster.set(objects.to_vec()).unwrap();
        for (from, to, port, is_allowed) in expected {
            let probe = Probe {
                from: end(from),
                to: end(to),
                port: PortChoice::Number(*port),
                transport: Transport::Tcp,
            };
            let result = cluster.probe(&probe).unwrap();
            assert_eq!(result.problem, None, "{probe:?}");
            assert_eq!(result.is_allowed, *is_allowed, "{probe:?}");
        }
    }
}

#[track_caller]
fn check_problem(objects: &[Object], ends: &[PodOrIp; 2], port: &PortChoice, expected: &str) {
    for mut cluster in engines() {
        cluster.set(objects.to_vec()).unwrap();
        let [from, to] = ends.clone();
        let probe = Probe { from, to, port: port.clone(), transport: Transport::Tcp };
        let result = cluster.probe(&probe).unwrap();
        assert!(!result.is_allowed);
        assert_eq!(result.problem.map(|problem| problem.to_string()).as_deref(), Some(expected));
    }
}

#[test]
fn without_policies_everything_passes() {
    let objects = [Object::Pod(pod("a", &["10.0.0.1"])), Object::Pod(pod("b", &["10.0.0.2"]))];
    check(
        &objects,
        &[("a", "b", 80, true), ("1.2.3.4", "b", 80, true), ("a", "1.2.3.4", 80, true)],
    );
}

#[test]
fn egress_and_ingress_have_to_allow() {
    let mut objects =
        vec![Object::Pod(pod("a", &["10.0.0.1"])), Object::Pod(pod("b", &["10.0.0.2"]))];
    objects.push(policy("in", vec![rule(own_pods(), Some(80))], Vec::new()));
    check(&objects, &[("a", "b", 80, false), ("a", "9.9.9.9", 80, false)]);
    objects.push(policy("out", Vec::new(), vec![rule(own_pods(), Some(80))]));
    check(&objects, &[("a", "b", 80, true), ("a", "b", 81, false), ("9.9.9.9", "b", 80, false)]);
}

#[test]
fn the_own_node_and_the_pod_itself_always_pass() {
    let mut host = pod("host", &["192.168.0.1"]);
    host.host_network = true;
    let objects = [
        Object::Pod(pod("a", &["10.0.0.1"])),
        Object::Pod(host),
        policy("deny", Vec::new(), Vec::new()),
        node("n1", "192.168.0.9"),
        node("n2", "192.168.0.2"),
    ];
    check(
        &objects,
        &[
            ("192.168.0.1", "a", 80, true),
            ("192.168.0.9", "a", 80, true),
            ("host", "a", 80, true),
            ("192.168.0.2", "a", 80, false),
            ("a", "192.168.0.1", 80, true),
            ("a", "host", 80, true),
            ("a", "192.168.0.2", 80, false),
            ("a", "a", 80, true),
        ],
    );
}

#[test]
fn another_node_is_matched_by_ip_block() {
    let objects = [
        Object::Pod(pod("a", &["10.0.0.1"])),
        policy(
            "p",
            vec![rule(block("192.168.0.2/32"), Some(80))],
            vec![rule(block("192.168.0.2/32"), Some(443))],
        ),
        node("n1", "192.168.0.1"),
        node("n2", "192.168.0.2"),
    ];
    check(
        &objects,
        &[
            ("192.168.0.2", "a", 80, true),
            ("192.168.0.2", "a", 443, false),
            ("a", "192.168.0.2", 443, true),
            ("a", "192.168.0.2", 80, false),
        ],
    );
}

/// The address of a Service that exceeds the capacity is not deferred by itself. A policy that allows the address would let the
/// packet through to a backend that the policy excepts.
#[test]
fn a_service_over_capacity_leads_around_no_policy() {
    let outside =
        IpBlock { cidr: "0.0.0.0/0".parse().unwrap(), except: vec!["10.0.0.0/8".parse().unwrap()] };
    let labels: Labels = [(Arc::from("app"), Arc::from("b"))].into_iter().collect();
    let selected = Requirement::In(Arc::from("app"), [Arc::from("b")].into());
    let objects = [
        Object::Pod(pod("a", &["10.0.0.1"])),
        Object::Pod(Pod { labels, ..pod("b", &["10.0.0.2"]) }),
        policy(
            "outside",
            vec![rule(Peers::All, None)],
            vec![rule(Peers::AnyOf(vec![Peer::IpBlock(outside)]), None)],
        ),
        Object::Service(Service {
            name: ObjectName::new("x", "huge"),
            addresses: (1..=9).map(|last| ip(&format!("203.0.113.{last}"))).collect(),
            external_addresses: Vec::new(),
            keeps_source: false,
            selector: Some(Selector::new([selected])),
            ports: vec![ServicePort {
                name: Arc::from(""),
                transport: Transport::Tcp,
                number: 80,
                node_port: None,
                backend: BackendPort::Number(80),
            }],
            backends: Vec::new(),
        }),
    ];
    let few = Capacities { n_deferred: Shared::undivided(4), ..Capacities::default() };
    let mut cluster = Cluster::within(Engine::compiled(), few);
    cluster.set(objects.to_vec()).unwrap();
    assert!(cluster.map_state().defer.is_empty());
    assert_eq!(cluster.findings().len(), 1);
    for (to, is_allowed) in [("203.0.113.1", false), ("203.0.113.50", true), ("10.0.0.2", false)] {
        let probe = Probe {
            from: end("a"),
            to: end(to),
            port: PortChoice::Number(80),
            transport: Transport::Tcp,
        };
        assert_eq!(cluster.probe(&probe).unwrap().is_allowed, is_allowed, "{to}");
    }
}

#[test]
fn a_pod_replaced_under_its_name_gets_a_new_interface_and_the_same_pod_keeps_its_own() {
    let mut cluster = Cluster::new(Engine::compiled());
    let interfaces = |cluster: &Cluster| -> Vec<_> {
        let endpoints = cluster.state().endpoints();
        endpoints.map(|endpoint| (endpoint.ifindex.0, endpoint.container_id.to_string())).collect()
    };
    let mut a = pod("a", &["10.0.0.1"]);
    a.uid = Arc::from("1");
    cluster.set(vec![Object::Pod(a.clone())]).unwrap();
    let before = interfaces(&cluster);
    cluster.set(vec![Object::Pod(pod("0", &["10.0.0.9"])), Object::Pod(a.clone())]).unwrap();
    assert!(interfaces(&cluster).contains(&before[0]));
    a.uid = Arc::from("2");
    cluster.set(vec![Object::Pod(a)]).unwrap();
    assert_eq!(interfaces(&cluster), [(before[0].0, "3".to_owned())]);
}

#[test]
fn removed_objects_are_gone() {
    for mut cluster in engines() {
        let a = Object::Pod(pod("a", &["10.0.0.1"]));
        let probe = Probe {
            from: end("9.9.9.9"),
            to: end("a"),
            port: PortChoice::Number(80),
            transport: Transport::Udp,
        };
        cluster.set(vec![a.clone(), policy("deny", Vec::new(), Vec::new())]).unwrap();
        assert!(!cluster.probe(&probe).unwrap().is_allowed);
        cluster.set(vec![a]).unwrap();
        assert!(cluster.probe(&probe).unwrap().is_allowed);
    }
}

#[test]
fn every_probe_is_a_new_connection() {
    let objects = [
        Object::Pod(pod("a", &["10.0.0.1"])),
        Object::Pod(pod("b", &["10.0.0.2"])),
        policy("p", vec![rule(own_pods(), Some(50_321))], vec![rule(own_pods(), Some(50_321))]),
    ];
    // The client port of one is the destination port of the other, in both directions.
    check(&objects, &[("a", "b", 50_321, true), ("b", "a", 50_321, true), ("b", "a", 80, false)]);
}

#[test]
fn an_impossible_connection_is_denied_with_a_problem() {
    let mut done = pod("done", &["10.0.0.3"]);
    done.phase = PodPhase::Succeeded;
    let objects = [
        Object::Pod(pod("a", &["10.0.0.1"])),
        Object::Pod(pod("six", &["fd00::1"])),
        Object::Pod(done),
    ];
    let check = |from: PodOrIp, to: &str, port: &PortChoice, expected: &str| {
        check_problem(&objects, &[from, end(to)], port, expected);
    };
    let number = PortChoice::Number(80);
    check(end("a"), "none", &number, "pod x/none does not exist");
    check(end("a"), "done", &number, "pod x/done has no IP address");
    check(end("a"), "six", &number, "source and destination have no address family in common");
    let chosen = PodOrIp::Pod { name: ObjectName::new("x", "a"), address: Some(ip("10.0.0.7")) };
    check(chosen, "a", &number, "pod x/a does not have address 10.0.0.7");
    let name = PortChoice::Name(Arc::from("dns"));
    check(end("9.9.9.9"), "a", &name, "x/a has no TCP port named dns");
    check(end("a"), "9.9.9.9", &name, "9.9.9.9 has no TCP port named dns");
}

#[test]
fn a_port_name_is_the_first_number_of_that_name() {
    let objects = vec![
        Object::Pod(pod("a", &["10.0.0.1", "fd00::1"])),
        policy("p", vec![rule(Peers::All, Some(8080))], Vec::new()),
    ];
    for mut cluster in engines() {
        cluster.set(objects.clone()).unwrap();
        for source in ["9.9.9.9", "2001:db8::9"] {
            let probe = Probe {
                from: end(source),
                to: end("a"),
                port: PortChoice::Name(Arc::from("http")),
                transport: Transport::Tcp,
            };
            assert!(cluster.probe(&probe).unwrap().is_allowed);
        }
    }
}

#[test]
fn namespaces_without_an_object_are_added() {
    let objects = vec![Object::Pod(pod("a", &[]))];
    let (objects, added) = with_implicit_namespaces(objects);
    assert_eq!(added, [Arc::from("x")]);
    assert_eq!(objects.len(), 2);
    let (_, added) = with_implicit_namespaces(objects);
    assert!(added.is_empty());
}

/// A Service in front of the pods with label `app=s`: 80 → 8080.
fn service(address: &str) -> Object {
    Object::Service(Service {
        name: ObjectName::new("x", "s"),
        addresses: vec![ip(address)],
        external_addresses: Vec::new(),
        keeps_source: false,
        selector: Some(app("s")),
        ports: vec![ServicePort {
            name: Arc::from(""),
            transport: Transport::Tcp,
            number: 80,
            node_port: None,
            backend: BackendPort::Number(8080),
        }],
        backends: Vec::new(),
    })
}

fn app(value: &str) -> Selector {
    Selector::new([Requirement::In(Arc::from("app"), [Arc::from(value)].into())])
}

fn labelled(mut pod: Pod, value: &str) -> Object {
    pod.labels = [(Arc::from("app"), Arc::from(value))].into_iter().collect();
    Object::Pod(pod)
}

#[test]
fn a_service_is_evaluated_on_its_backend_pods() {
    let to_backend =
        Peers::AnyOf(vec![Peer::Pods { namespaces: NamespaceMatch::Own, pods: app("s") }]);
    let objects = [
        Object::Pod(pod("a", &["10.0.0.1"])),
        labelled(pod("s1", &["10.0.0.2"]), "s"),
        service("10.96.0.1"),
        policy("p", vec![rule(own_pods(), Some(8080))], vec![rule(to_backend, Some(8080))]),
    ];
    check(
        &objects,
        &[
            ("a", "10.96.0.1", 80, true),
            ("a", "s1", 8080, true),
            ("a", "s1", 80, false),
            ("s1", "10.96.0.1", 80, true),
            ("9.9.9.9", "10.96.0.1", 80, false),
        ],
    );
    let mut objects = objects.to_vec();
    objects.pop();
    objects.push(policy(
        "p",
        vec![rule(Peers::All, None)],
        vec![rule(block("10.96.0.0/16"), None)],
    ));
    check(&objects, &[("a", "10.96.0.1", 80, false), ("9.9.9.9", "10.96.0.1", 80, true)]);
}

#[test]
fn a_service_is_allowed_when_every_backend_pod_is() {
    let other = ("s2", "10.0.0.3");
    let mut objects = vec![
        Object::Pod(pod("a", &["10.0.0.1"])),
        labelled(pod("s1", &["10.0.0.2"]), "s"),
        labelled(pod(other.0, &[other.1]), "s"),
        service("10.96.0.1"),
        policy("p", vec![rule(Peers::All, None)], vec![rule(block("10.0.0.2/31"), Some(8080))]),
    ];
    check(&objects, &[("a", "10.96.0.1", 80, true)]);
    objects.pop();
    objects.push(policy("p", vec![rule(Peers::All, None)], vec![rule(block("10.0.0.2/32"), None)]));
    check(&objects, &[("a", "10.96.0.1", 80, false), ("s1", "10.96.0.1", 80, false)]);
}

#[test]
fn a_service_without_backend_is_allowed_by_rules_for_all_destinations_only() {
    let mut objects = vec![Object::Pod(pod("a", &["10.0.0.1"])), service("10.96.0.1")];
    let mut verdicts = Vec::new();
    for peers in [None, Some(block("0.0.0.0/0")), Some(own_pods()), Some(Peers::All)] {
        objects.truncate(2);
        objects.extend(peers.map(|peers| policy("p", Vec::new(), vec![rule(peers, Some(80))])));
        for mut cluster in engines() {
            cluster.set(objects.clone()).unwrap();
            let probe = Probe {
                from: end("a"),
                to: end("10.96.0.1"),
                port: PortChoice::Number(80),
                transport: Transport::Tcp,
            };
            let result = cluster.probe(&probe).unwrap();
            assert_eq!(result.problem, Some(Problem::NoBackend(ip("10.96.0.1"))));
            verdicts.push(result.is_allowed);
        }
    }
    assert_eq!(verdicts, [true, true, false, false, false, false, true, true]);
}
