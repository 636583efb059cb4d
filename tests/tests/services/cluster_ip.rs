//! Egress to a Service is decided on the real backend.

use std::net::SocketAddr;

use netpol_lab::node::netns::Counter;
use netpol_lab::node::second_node::{self, TUNNEL};
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Bridge, Host, Lab, Masquerade, Passing, Service, Shape, Watch, labels};
use netpol_lab::privilege::met;
use netpol_lab::probe::{Outcome, Probe, Protocol};
use serde_json::json;

use crate::cluster::{
    FILTERED_BRIDGE, apply_policy, can_run, egress_only_to, expect, lab_wired, pod, policy_file,
    sockets, talk_from, talk_from_over_routes,
};

/// Number of connections to a Service with two backends, half to each.
const N_CONNECTIONS: usize = 8;

#[test]
fn egress_to_a_service_is_decided_on_the_real_backend_with_nftables() {
    check("svc-nft", Shape::Nftables, Path::Plain);
}

#[test]
fn egress_to_a_service_is_decided_on_the_real_backend_with_nftables_and_a_filtered_bridge() {
    check("svc-nft-bridge", Shape::Nftables, Path::Filtered);
}

#[test]
fn egress_to_a_service_is_decided_on_the_real_backend_with_iptables() {
    check("svc-ipt", Shape::Iptables, Path::Plain);
}

#[test]
fn egress_to_a_service_is_decided_on_the_real_backend_with_iptables_and_a_filtered_bridge() {
    check("svc-ipt-bridge", Shape::Iptables, Path::Filtered);
}

#[test]
fn egress_to_a_service_is_decided_on_the_real_backend_with_nftables_over_routed_veths() {
    check("svc-nft-routed", Shape::Nftables, Path::Routed);
}

#[test]
fn egress_to_a_service_is_decided_on_the_real_backend_with_iptables_over_routed_veths() {
    check("svc-ipt-routed", Shape::Iptables, Path::Routed);
}

/// How the pods are connected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    /// A bridge without `br_netfilter`.
    Plain,
    /// A bridge with `br_netfilter`.
    Filtered,
    /// Routed veths.
    Routed,
}

#[expect(
    clippy::too_many_lines,
    reason = "one scenario: each step begins where the last one ended"
)]
fn check(name: &str, shape: Shape, between: Path) {
    if !can_run() {
        return;
    }
    if between == Path::Filtered && !met(&[FILTERED_BRIDGE]) {
        return;
    }
    let mut second_node = None;
    let wiring = if between == Path::Routed { Wiring::Routed } else { Wiring::Bridge };
    let lab = lab_wired(name, wiring, &["client", "good", "bad"], |lab| {
        let far = lab.add_second_node("default/far", &labels(&[("app", "far")]))?;
        second_node = Some(far);
        match between {
            Path::Filtered => lab.set_bridge(Bridge::Filtered),
            // Without the module the bridge cannot be filtered.
            Path::Plain => lab.set_bridge(Bridge::Plain).or(Ok(())),
            Path::Routed => Ok(()),
        }
    });
    let sources = ["192.0.2.1", "2001:db8:192::1"];
    match between {
        Path::Plain | Path::Filtered => talk_from(&lab, sources),
        Path::Routed => talk_from_over_routes(&lab, &["client"], sources),
    }
    let client = pod("client");
    let far: Vec<_> =
        second_node::POD.iter().map(|address| SocketAddr::new(*address, 80)).collect();
    let office = sockets(&lab, &Host::Office, 80);
    let (good, bad) = (sockets(&lab, &pod("good"), 80), sockets(&lab, &pod("bad"), 80));
    // External addresses too: of a load balancer, or of a second uplink of this node.
    let exposed = |service: Service, n: u8| Service {
        node_port: Some(30_000 + u16::from(n)),
        external: vec![
            [203, 0, 113, n].into(),
            [0x2001, 0xdb8, 0x203, 0, 0, 0, 0, n.into()].into(),
        ],
        ..service
    };
    let services = [
        exposed(Service::new("good", 1, good.clone()), 1),
        exposed(Service::new("bad", 2, bad.clone()), 2),
        Service::new("mixed", 3, [good.clone(), bad.clone()].concat()),
        Service::new("far", 4, far.clone()),
        Service::new("outside", 5, office.clone()),
        Service::new("itself", 6, sockets(&lab, &client, 80)),
    ];
    let at = |name: &str| {
        let service = services.iter().find(|service| service.name == name).unwrap();
        service.addresses.iter().map(|address| SocketAddr::new(*address, 80)).collect::<Vec<_>>()
    };
    let vips = |names: &[&str]| names.iter().flat_map(|name| at(name)).collect::<Vec<_>>();
    let [good_outside, bad_outside] = ["good", "bad"].map(|name| {
        let service = services.iter().find(|service| service.name == name).unwrap();
        service.external.iter().map(|address| SocketAddr::new(*address, 80)).collect::<Vec<_>>()
    });
    let node_port = |port| sockets(&lab, &Host::Node, port);

    let peers = json!([
        { "podSelector": { "matchLabels": { "app": "good" } } },
        { "podSelector": { "matchLabels": { "app": "far" } } },
    ]);
    apply_policy(&lab, "egress", &json!({}), &egress_only_to("client", &peers));
    // Services come later; these attempts leave no state that affects later steps.
    let none = vips(&["good", "bad", "far", "outside", "itself"]);
    expect(
        &lab,
        &client,
        &[(Passing::Yes, good.clone()), (Passing::No, [none, bad.clone()].concat())],
    );

    let masquerade = match between {
        Path::Filtered | Path::Routed => Masquerade::Outsiders,
        Path::Plain => Masquerade::All,
    };
    lab.apply_services(shape, masquerade, &services).unwrap();
    // A headless Service resolves to the pods: no NAT, and no deferred verdict.
    let headless = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": "default", "name": "headless" },
        "spec": { "clusterIP": "None", "clusterIPs": ["None"], "ports": [{ "port": 80 }] },
    });
    lab.manifests().write_object("service-headless.yaml", &headless).unwrap();
    let ticketed = egress_mark_watch(&lab);
    expect(
        &lab,
        &client,
        &[
            (Passing::Yes, vips(&["good", "far", "itself"])),
            (Passing::Yes, [far.clone(), node_port(30_001), node_port(80), good_outside].concat()),
            (Passing::No, vips(&["bad", "outside"])),
            (Passing::No, [bad.clone(), office.clone(), node_port(30_002), bad_outside].concat()),
        ],
    );
    assert!(
        ticketed.count("inner").unwrap() > 0,
        "no packet with an egress mark was routed to the tunnel"
    );
    assert!(ticketed.count("outer").unwrap() > 0, "no packet left the tunnel");
    assert_eq!(
        ticketed.count("outer_with_egress_mark").unwrap(),
        0,
        "a packet with an egress mark left the tunnel"
    );
    check_mixed(&lab, &at("mixed"));

    let all_but_pods = json!([
        { "ipBlock": { "cidr": "0.0.0.0/0", "except": ["10.244.0.0/16"] } },
        { "ipBlock": { "cidr": "::/0", "except": ["fd00:10:244::/48"] } },
    ]);
    apply_policy(&lab, "egress", &json!({}), &egress_only_to("client", &all_but_pods));
    expect(
        &lab,
        &client,
        &[
            (Passing::Yes, vips(&["outside", "itself"])),
            (Passing::Yes, [office, node_port(80)].concat()),
            (Passing::No, vips(&["good", "bad", "far", "mixed"])),
            (Passing::No, [good, far, node_port(30_001)].concat()),
        ],
    );

    // Isolated for ingress only, the pod still reaches itself.
    let ingress = json!({
        "podSelector": { "matchLabels": { "app": "client" } },
        "policyTypes": ["Ingress"],
    });
    apply_policy(&lab, "egress", &json!({}), &ingress);
    expect(&lab, &pod("bad"), &[(Passing::No, vips(&["itself"])), (Passing::Yes, vips(&["far"]))]);
    expect(&lab, &client, &[(Passing::Yes, vips(&["itself", "good", "bad", "far"]))]);

    lab.manifests().remove(&policy_file("egress")).unwrap();
    let all = vips(&["good", "bad", "mixed", "far", "outside", "itself"]);
    expect(&lab, &client, &[(Passing::Yes, all), (Passing::Yes, node_port(30_002))]);
    drop(second_node);
}

/// Counts on the node: packets with an egress mark that are routed into the tunnel, encapsulated packets, and encapsulated packets
/// with an egress mark.
fn egress_mark_watch(lab: &Lab) -> Watch {
    let egress_mark = "meta mark & 0xfff00000 != 0";
    let outer = "oifname eth0 udp dport 8472";
    Watch::start(
        lab.netns(&Host::Node).unwrap(),
        "inet",
        "type filter hook postrouting priority 300",
        &[
            ("inner", &format!("oifname {TUNNEL} {egress_mark}")),
            ("outer", outer),
            ("outer_with_egress_mark", &format!("{outer} {egress_mark}")),
        ],
    )
    .unwrap()
}

/// Checks that connections to the allowed backend work, and that the others time out without reaching the denied backend.
fn check_mixed(lab: &Lab, vips: &[SocketAddr]) {
    let bad = lab.netns(&pod("bad")).unwrap();
    let counters = [Counter::TcpArrived, Counter::UdpArrived];
    let before = counters.map(|counter| bad.counter(counter).unwrap());
    for &destination in vips {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let probes = vec![Probe { protocol, destination }; N_CONNECTIONS];
            let tries = [(pod("client"), probes)];
            until(&format!("half of {protocol} to {destination}"), LIMIT, || {
                let outcomes = lab.probe(&tries)?.concat();
                let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
                let halves = [count(Outcome::Passed), count(Outcome::Silent)];
                Ok(if halves == [N_CONNECTIONS / 2; 2] {
                    Look::Done(())
                } else {
                    Look::NotYet(format!("{outcomes:?}"))
                })
            })
            .unwrap();
        }
    }
    assert_eq!(counters.map(|counter| bad.counter(counter).unwrap()), before);
}
