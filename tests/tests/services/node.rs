//! A pod and its own node always reach each other; no other host counts as the node.

use std::net::IpAddr;
use std::process::{Command, Stdio};

use netpol_lab::node::nat::feed;
use netpol_lab::node::second_node;
use netpol_lab::node::topology::{OFFICE, Wiring};
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Host, Lab, Masquerade, Passing, SecondNode, Service, Shape, labels};
use netpol_lab::privilege::{Need, met};
use serde_json::json;

use crate::cluster::{
    apply_policy, can_run, expect, lab, lab_wired, pod, sockets, talk_from, talk_from_over_routes,
};

/// The node's addresses: on the uplink, on the tunnel to other nodes, and on the bridge, if there is one.
const NODE_ADDRESSES: [[&str; 2]; 3] = [
    ["192.0.2.1", "2001:db8:192::1"],
    ["10.244.1.0", "fd00:10:244:1::"],
    ["10.244.1.1", "fd00:10:244:1::1"],
];

/// A lab with a tunnel, and the addresses of its node.
fn lab_with_tunnel(
    name: &str,
    wiring: Wiring,
    pods: &[&str],
) -> (Lab, SecondNode, &'static [[&'static str; 2]]) {
    let mut second_node = None;
    let lab = lab_wired(name, wiring, pods, |lab| {
        second_node = Some(lab.add_second_node("default/far", &labels(&[("app", "far")]))?);
        Ok(())
    });
    let n = if wiring == Wiring::Bridge { 3 } else { 2 };
    (lab, second_node.unwrap(), &NODE_ADDRESSES[..n])
}

/// Sets the node's source addresses for this pod.
fn talk(lab: &Lab, wiring: Wiring, name: &str, addresses: [&str; 2]) {
    match wiring {
        Wiring::Bridge => talk_from(lab, addresses),
        Wiring::Routed => talk_from_over_routes(lab, &[name], addresses),
    }
}

fn isolate(lab: &Lab, name: &str) {
    let spec = json!({
        "podSelector": { "matchLabels": { "app": name } },
        "policyTypes": ["Ingress", "Egress"],
    });
    apply_policy(lab, "isolate", &json!({}), &spec);
}

#[test]
fn processes_of_the_node_reach_an_isolated_pod_from_every_address_of_the_node() {
    reaches_the_pod("node-out", Wiring::Bridge);
}

#[test]
fn processes_of_the_node_reach_an_isolated_pod_over_routed_veths() {
    reaches_the_pod("node-out-routed", Wiring::Routed);
}

fn reaches_the_pod(name: &str, wiring: Wiring) {
    if !can_run() || !met(&[Need::Program("ping")]) {
        return;
    }
    let (lab, second_node, node_addresses) = lab_with_tunnel(name, wiring, &["isolated", "other"]);
    isolate(&lab, "isolated");
    let isolated = sockets(&lab, &pod("isolated"), 80);
    expect(&lab, &pod("other"), &[(Passing::No, isolated.clone())]);
    expect(&lab, &Host::Office, &[(Passing::No, isolated.clone())]);
    for addresses in node_addresses {
        talk(&lab, wiring, "isolated", *addresses);
        expect(&lab, &Host::Node, &[(Passing::Yes, isolated.clone())]);
        for socket in &isolated {
            ping(&lab, &Host::Node, Passing::Yes, &socket.ip().to_string());
            ping(&lab, &pod("other"), Passing::No, &socket.ip().to_string());
        }
    }
    drop(second_node);
}

#[test]
fn an_isolated_pod_reaches_its_own_node_at_every_address_of_the_node() {
    reaches_the_node("node-in", Wiring::Bridge);
}

#[test]
fn an_isolated_pod_reaches_its_own_node_over_routed_veths() {
    reaches_the_node("node-in-routed", Wiring::Routed);
}

fn reaches_the_node(name: &str, wiring: Wiring) {
    if !can_run() || !met(&[Need::Program("ping")]) {
        return;
    }
    let (lab, second_node, node_addresses) = lab_with_tunnel(name, wiring, &["isolated"]);
    isolate(&lab, "isolated");
    expect(&lab, &pod("isolated"), &[(Passing::No, sockets(&lab, &Host::Office, 80))]);
    for addresses in node_addresses {
        talk(&lab, wiring, "isolated", *addresses);
        // On the pods' link this is the anycast address of routers, on which Linux accepts no TCP.
        let addresses: Vec<_> =
            addresses.iter().filter(|address| **address != "fd00:10:244:1::").collect();
        let places = addresses.iter().map(|address| address.parse::<IpAddr>().unwrap());
        let places = places.map(|address| (address, 80).into());
        expect(&lab, &pod("isolated"), &[(Passing::Yes, places.collect())]);
        for address in addresses {
            ping(&lab, &pod("isolated"), Passing::Yes, address);
        }
    }
    for address in lab.addresses(&Host::Office).unwrap() {
        ping(&lab, &pod("isolated"), Passing::No, &address.to_string());
    }
    for address in second_node::ADDRESSES.iter().chain(&second_node::POD) {
        ping(&lab, &pod("isolated"), Passing::No, &address.to_string());
    }
    drop(second_node);
}

#[test]
fn outsiders_behind_an_address_of_the_node_do_not_pass_as_the_node() {
    if !can_run() {
        return;
    }
    let lab = lab("node-snat", &["isolated", "open"], |_| Ok(()));
    isolate(&lab, "isolated");
    let backends = |name: &str| sockets(&lab, &pod(name), 80);
    let service = |name: &str, n, node_port| Service {
        node_port: Some(node_port),
        ..Service::new(name, n, backends(name))
    };
    let services = [service("isolated", 1, 30_001), service("open", 2, 30_002)];
    // The node needs a route to Service addresses.
    let [v4, v6] = OFFICE;
    let routes = format!("route add default via {v4}\nroute add default via {v6}\n");
    lab.netns(&Host::Node).unwrap().configure(&routes).unwrap();
    for shape in Shape::ALL {
        feed(
            lab.netns(&Host::Node).unwrap(),
            Command::new("nft").args(["-f", "-"]),
            "flush ruleset\n",
        )
        .unwrap();
        lab.apply_services(shape, Masquerade::Outsiders, &services).unwrap();
        let node_port = |port| sockets(&lab, &Host::Node, port);
        // A NodePort is masqueraded, so the pod sees an address of the node.
        let expected = [(Passing::Yes, node_port(30_002)), (Passing::No, node_port(30_001))];
        expect(&lab, &Host::Office, &expected);
        // The node itself passes, also through Services.
        let all = services.iter().flat_map(|service| &service.addresses);
        let all = all.map(|address| (*address, 80).into()).collect();
        expect(&lab, &Host::Node, &[(Passing::Yes, all)]);
    }
    // A pod that the policy allows is not recognised behind a NodePort.
    let allow = json!({
        "podSelector": { "matchLabels": { "app": "isolated" } },
        "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "open" } } }] }],
    });
    apply_policy(&lab, "allow", &json!({}), &allow);
    let expected = [
        (Passing::Yes, backends("isolated")),
        (Passing::No, sockets(&lab, &Host::Node, 30_001)),
        (Passing::Yes, sockets(&lab, &Host::Node, 30_002)),
    ];
    expect(&lab, &pod("open"), &expected);
    lab.manifests().remove("policy-allow.yaml").unwrap();
    // Also without Services: all traffic that is forwarded to pods is masqueraded.
    let masquerade = "flush ruleset\ntable inet outside {\nchain post {\n\
        type nat hook postrouting priority srcnat\niifname eth0 oifname cni0 masquerade\n}\n}\n";
    feed(lab.netns(&Host::Node).unwrap(), Command::new("nft").args(["-f", "-"]), masquerade)
        .unwrap();
    let expected = [(Passing::Yes, backends("open")), (Passing::No, backends("isolated"))];
    expect(&lab, &Host::Office, &expected);
}

/// Waits until an echo request is answered, or is not answered.
fn ping(lab: &Lab, from: &Host, passing: Passing, address: &str) {
    until(&format!("echo from {from} to {address}: {passing:?}"), LIMIT, || {
        let mut command = Command::new("ping");
        command.args(["-n", "-q", "-c", "1", "-W", "0.3", address]);
        command.stdout(Stdio::null());
        let status = lab.netns(from)?.spawn(&mut command)?.wait()?;
        let is_answered = if status.success() { Passing::Yes } else { Passing::No };
        Ok(if is_answered == passing { Look::Done(()) } else { Look::NotYet(status.to_string()) })
    })
    .unwrap();
}
