//! `--own-node-egress judge`: a pod reaches its own node only where a policy allows it, and the node always reaches the pod.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use netpol_lab::node::topology::{NODE, OFFICE, Wiring};
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Host, Lab, Masquerade, Passing, PodSpec, Service, Shape, labels};
use netpol_lab::probe::{Probe, Protocol};
use serde_json::{Value, json};

use crate::cluster::{
    apply_policy, can_run, egress_only_to, expect, pod, sockets, talk_from, wait_for_services,
};

/// Addresses of a DNS cache on a device of the node, as `NodeLocal DNSCache` has them: a link-local one, and the cluster address of its
/// Service.
const CACHE: [[&str; 2]; 2] = [["169.254.20.10", "fd00:169::10"], ["10.96.0.53", "fd00:10:96::53"]];

/// A lab whose agent judges the own node, with these pods.
fn judging(name: &str, pods: &[&str]) -> Option<Lab> {
    if !can_run() {
        return None;
    }
    let mut lab = Lab::create(name, Wiring::Bridge).unwrap();
    lab.set_options(&["--own-node-egress", "judge"]);
    lab.apply_namespace("default", &labels(&[])).unwrap();
    lab.start_agent().unwrap();
    for name in pods {
        lab.add_pod(PodSpec::new(name, &[("app", name)], &[80])).unwrap();
    }
    talk_from(&lab, ["192.0.2.1", "2001:db8:192::1"]);
    Some(lab)
}

fn at(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    addresses.iter().map(|address| SocketAddr::new(*address, port)).collect()
}

fn blocks(addresses: &[IpAddr]) -> Value {
    let block = |address: &IpAddr| json!({ "ipBlock": { "cidr": format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }) } });
    addresses.iter().map(block).collect()
}

fn isolate(lab: &Lab, name: &str) {
    let spec = json!({
        "podSelector": { "matchLabels": { "app": name } },
        "policyTypes": ["Ingress", "Egress"],
    });
    apply_policy(lab, "isolate", &json!({}), &spec);
}

#[test]
fn the_own_node_needs_a_rule_and_its_probes_do_not() {
    let Some(lab) = judging("judge-node", &["isolated", "open"]) else { return };
    isolate(&lab, "isolated");
    let (isolated, open) = (pod("isolated"), pod("open"));
    expect(&lab, &isolated, &[(Passing::No, at(&NODE, 80)), (Passing::No, at(&NODE, 443))]);
    // The kubelet's probes pass, and so do the answers. A pod that no policy isolates reaches the node.
    expect(&lab, &Host::Node, &[(Passing::Yes, sockets(&lab, &isolated, 80))]);
    expect(&lab, &open, &[(Passing::Yes, at(&NODE, 80))]);
    let allow = json!({
        "podSelector": { "matchLabels": { "app": "isolated" } },
        "policyTypes": ["Egress"],
        "egress": [{ "to": blocks(&NODE), "ports": [
            { "port": 443 }, { "port": 443, "protocol": "UDP" },
        ] }],
    });
    apply_policy(&lab, "allow", &json!({}), &allow);
    expect(&lab, &isolated, &[(Passing::Yes, at(&NODE, 443)), (Passing::No, at(&NODE, 80))]);
    // What is only audited passes and is reported.
    lab.manifests().remove("policy-allow.yaml").unwrap();
    expect(&lab, &isolated, &[(Passing::No, at(&NODE, 443))]);
    let spec = json!({ "podSelector": { "matchLabels": { "app": "isolated" } }, "policyTypes": ["Egress"] });
    apply_policy(&lab, "isolate", &json!({ "netpol/mode": "audit" }), &spec);
    expect(&lab, &isolated, &[(Passing::Yes, at(&NODE, 443)), (Passing::Yes, at(&OFFICE, 80))]);
}

#[test]
fn a_dns_cache_on_the_node_needs_a_rule_for_the_address_that_pods_use() {
    let Some(lab) = judging("judge-cache", &["isolated"]) else { return };
    let node = lab.netns(&Host::Node).unwrap();
    // The program has a dummy device, which not every kernel has.
    let devices = "link add nodelocaldns type veth peer name nodelocalpeer\nlink set nodelocalpeer up\nlink set nodelocaldns up\n";
    node.configure(devices).unwrap();
    for address in CACHE.iter().flatten() {
        let width = if address.contains(':') { "128 nodad" } else { "32" };
        node.configure(&format!("address add {address}/{width} dev nodelocaldns\n")).unwrap();
    }
    // The Service whose address and port the cache has taken. Nothing translates them.
    lab.manifests()
        .write_object(
            "service-dns.yaml",
            &json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "namespace": "default", "name": "dns" },
                "spec": {
                    "clusterIP": CACHE[1][0], "clusterIPs": CACHE[1],
                    "selector": { "app": "nobody" },
                    "ports": [{ "name": "t", "port": 80 }, { "name": "u", "port": 80, "protocol": "UDP" }],
                },
            }),
        )
        .unwrap();
    isolate(&lab, "isolated");
    let isolated = pod("isolated");
    for addresses in CACHE {
        talk_from(&lab, addresses);
        let own: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        expect_tcp(&lab, &isolated, Passing::No, &at(&own, 80));
        apply_policy(&lab, "allow", &json!({}), &egress_only_to("isolated", &blocks(&own)));
        expect_tcp(&lab, &isolated, Passing::Yes, &at(&own, 80));
        lab.manifests().remove("policy-allow.yaml").unwrap();
        expect_tcp(&lab, &isolated, Passing::No, &at(&own, 80));
    }
}

/// Waits until TCP passes, or does not. Datagrams to several addresses of the node would be answered from one.
fn expect_tcp(lab: &Lab, from: &Host, passing: Passing, destinations: &[SocketAddr]) {
    let probe =
        |destination: &SocketAddr| Probe { protocol: Protocol::Tcp, destination: *destination };
    let probes: Vec<_> = destinations.iter().map(probe).collect();
    until(&format!("TCP of {from}: {passing:?}"), LIMIT, || {
        let outcomes = lab.probe(&[(from.clone(), probes.clone())])?.concat();
        let is_so = outcomes.iter().all(|outcome| outcome.is_passed() == (passing == Passing::Yes));
        Ok(if is_so { Look::Done(()) } else { Look::NotYet(format!("{outcomes:?}")) })
    })
    .unwrap();
    for probe in probes {
        lab.check_explanations(from, probe, passing).unwrap();
    }
}

#[test]
fn a_service_with_a_backend_on_the_node_needs_a_rule_for_every_one_of_them() {
    for shape in Shape::ALL {
        let name = format!("judge-api-{shape:?}").to_lowercase();
        let Some(lab) = judging(&name, &["isolated", "web"]) else { return };
        let [[v4, v6], bridge] =
            [NODE, ["10.244.1.1", "fd00:10:244:1::1"].map(|a| a.parse().unwrap())];
        // As the API server's on a control-plane node: endpoints with the node's address, and no selector.
        let api = Service::new("api", 1, at(&[v4, v6], 443));
        let two = Service::new("two", 2, at(&[v4, v6, bridge[0], bridge[1]], 443));
        let web = Service::new("web", 3, sockets(&lab, &pod("web"), 80));
        let services = [api, two, web];
        let [v4, v6] = OFFICE;
        let routes = format!("route add default via {v4}\nroute add default via {v6}\n");
        lab.netns(&Host::Node).unwrap().configure(&routes).unwrap();
        lab.apply_services(shape, Masquerade::Outsiders, &services).unwrap();
        wait_for_services(&lab, &services);
        isolate(&lab, "isolated");
        let [api, two, web] = services.each_ref().map(|service| at(&service.addresses, 80));
        let isolated = pod("isolated");
        expect(&lab, &isolated, &[(Passing::No, api.clone()), (Passing::No, web.clone())]);
        expect_tcp(&lab, &isolated, Passing::No, &two);
        apply_policy(&lab, "allow", &json!({}), &egress_only_to("isolated", &blocks(&NODE)));
        expect(&lab, &isolated, &[(Passing::Yes, api.clone()), (Passing::No, web.clone())]);
        expect_tcp(&lab, &isolated, Passing::No, &two);
        let peers: Vec<Value> =
            [NODE, bridge].iter().flat_map(|own| blocks(own).as_array().unwrap().clone()).collect();
        apply_policy(&lab, "allow", &json!({}), &egress_only_to("isolated", &json!(peers)));
        expect(&lab, &isolated, &[(Passing::Yes, api.clone()), (Passing::No, web.clone())]);
        expect_tcp(&lab, &isolated, Passing::Yes, &two);
        let peers = json!([{ "podSelector": { "matchLabels": { "app": "web" } } }]);
        apply_policy(&lab, "allow", &json!({}), &egress_only_to("isolated", &peers));
        expect(&lab, &isolated, &[(Passing::No, api), (Passing::Yes, web)]);
    }
}

#[test]
fn node_ports_are_judged_on_the_pod_behind_them_and_other_ports_at_the_node() {
    for shape in Shape::ALL {
        let name = format!("judge-port-{shape:?}").to_lowercase();
        let Some(lab) = judging(&name, &["isolated", "web", "other"]) else { return };
        let [v4, v6] = OFFICE;
        let routes = format!("route add default via {v4}\nroute add default via {v6}\n");
        lab.netns(&Host::Node).unwrap().configure(&routes).unwrap();
        let service = |name: &str, n, node_port, backends| Service {
            node_port: Some(node_port),
            ..Service::new(name, n, backends)
        };
        let services = [
            service("web", 1, 30_001, sockets(&lab, &pod("web"), 80)),
            service("other", 2, 30_002, sockets(&lab, &pod("other"), 80)),
            // Its backend is on the node's network, which passes no second hook: the node port counts as the node's own.
            service("host", 3, 30_003, at(&NODE, 443)),
        ];
        lab.apply_services(shape, Masquerade::Outsiders, &services).unwrap();
        wait_for_services(&lab, &services);
        isolate(&lab, "isolated");
        let isolated = pod("isolated");
        let port = |port| at(&NODE, port);
        let none =
            [(Passing::No, port(30_001)), (Passing::No, port(30_002)), (Passing::No, port(30_003))];
        expect(&lab, &isolated, &none);
        let peers = json!([{ "podSelector": { "matchLabels": { "app": "web" } } }]);
        apply_policy(&lab, "allow", &json!({}), &egress_only_to("isolated", &peers));
        let expected = [
            (Passing::Yes, port(30_001)),
            (Passing::No, port(30_002)),
            (Passing::No, port(30_003)),
            (Passing::No, port(80)),
        ];
        expect(&lab, &isolated, &expected);
        apply_policy(&lab, "allow", &json!({}), &egress_only_to("isolated", &blocks(&NODE)));
        expect(
            &lab,
            &isolated,
            &[(Passing::No, port(30_001)), (Passing::Yes, port(30_003)), (Passing::Yes, port(80))],
        );
    }
}

#[test]
fn an_address_that_ipvs_holds_for_a_service_is_the_nodes_at_other_ports() {
    for shape in Shape::ALL {
        let name = format!("judge-ipvs-{shape:?}").to_lowercase();
        let Some(lab) = judging(&name, &["isolated", "web"]) else { return };
        let [v4, v6] = OFFICE;
        let node = lab.netns(&Host::Node).unwrap();
        node.configure(&format!("route add default via {v4}\nroute add default via {v6}\n"))
            .unwrap();
        let services = [Service::new("web", 1, sockets(&lab, &pod("web"), 80))];
        lab.apply_services(shape, Masquerade::Outsiders, &services).unwrap();
        wait_for_services(&lab, &services);
        let [Service { addresses, .. }] = &services;
        // As kube-proxy's device in the mode ipvs, which is a dummy device.
        let mut device = "link add kube-ipvs0 type veth peer name kube-ipvs-peer\n".to_owned();
        for address in addresses {
            let width = if address.is_ipv4() { "32" } else { "128 nodad" };
            writeln!(device, "address add {address}/{width} dev kube-ipvs0").unwrap();
        }
        node.configure(&device).unwrap();
        node.configure("link set kube-ipvs-peer up\nlink set kube-ipvs0 up\n").unwrap();
        isolate(&lab, "isolated");
        let isolated = pod("isolated");
        let [of_service, of_node] = [80, 443].map(|port| at(addresses, port));
        expect_tcp(&lab, &isolated, Passing::No, &of_service);
        expect_tcp(&lab, &isolated, Passing::No, &of_node);
        let peers = json!([{ "podSelector": { "matchLabels": { "app": "web" } } }]);
        apply_policy(&lab, "allow", &json!({}), &egress_only_to("isolated", &peers));
        expect_tcp(&lab, &isolated, Passing::Yes, &of_service);
        expect_tcp(&lab, &isolated, Passing::No, &of_node);
        apply_policy(&lab, "allow", &json!({}), &egress_only_to("isolated", &blocks(addresses)));
        expect_tcp(&lab, &isolated, Passing::Yes, &of_node);
        expect_tcp(&lab, &isolated, Passing::No, &of_service);
    }
}
