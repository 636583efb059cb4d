//! Shared set-up and queries of these tests.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::Result;
use netpol_datapath::{Datapath, Mount};
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Host, Lab, Passing, PodSpec, Service, labels};
use netpol_lab::privilege::{Need, met};
use netpol_lab::probe::{Outcome, Probe, Protocol};
use netpol_policy::dataplane::port::Maps as _;
use serde_json::{Value, json};

/// Whether a test that needs a lab and NAT rules can run.
pub(crate) fn can_run() -> bool {
    met(&[
        Need::Root,
        Need::Program("nft"),
        Need::Program("iptables-restore"),
        Need::File { path: "/usr/lib/cni/bridge", from: "containernetworking-plugins" },
    ])
}

/// Additional need of tests with a filtered bridge.
pub(crate) const FILTERED_BRIDGE: Need =
    Need::File { path: "/proc/sys/net/bridge", from: "the kernel module br_netfilter" };

/// A lab with an agent and pods that answer on port 80, each with its name as label `app`.
pub(crate) fn lab(name: &str, pods: &[&str], prepare: impl FnOnce(&Lab) -> Result<()>) -> Lab {
    lab_wired(name, Wiring::Bridge, pods, prepare)
}

/// The same, with pods on a bridge or on routed veths.
pub(crate) fn lab_wired(
    name: &str,
    wiring: Wiring,
    pods: &[&str],
    prepare: impl FnOnce(&Lab) -> Result<()>,
) -> Lab {
    let mut lab = Lab::create(name, wiring).unwrap();
    lab.apply_namespace("default", &labels(&[])).unwrap();
    prepare(&lab).unwrap();
    lab.start_agent().unwrap();
    for pod in pods {
        lab.add_pod(PodSpec::new(pod, &[("app", pod)], &[80])).unwrap();
    }
    lab
}

/// A pod of the namespace `default`.
pub(crate) fn pod(name: &str) -> Host {
    Host::Pod(format!("default/{name}"))
}

/// The socket addresses of a pod, IPv4 first.
pub(crate) fn sockets(lab: &Lab, host: &Host, port: u16) -> Vec<SocketAddr> {
    let addresses = lab.addresses(host).unwrap();
    addresses.iter().map(|address| SocketAddr::new(*address, port)).collect()
}

/// Sets the node's source addresses for its pods. A server on the unspecified address answers datagrams from the source address
/// of the route, whatever the destination was.
pub(crate) fn talk_from(lab: &Lab, [v4, v6]: [&str; 2]) {
    let routes = format!(
        "route replace 10.244.1.0/24 dev cni0 scope link src {v4}\n\
         route replace fd00:10:244:1::/64 dev cni0 src {v6} metric 100\n"
    );
    lab.netns(&Host::Node).unwrap().configure(&routes).unwrap();
}

/// The same for these pods on routed veths.
pub(crate) fn talk_from_over_routes(lab: &Lab, pods: &[&str], [v4, v6]: [&str; 2]) {
    for name in pods {
        let (device, _) = lab.host_interface(&format!("default/{name}")).unwrap();
        let mut routes = String::new();
        for address in lab.addresses(&pod(name)).unwrap() {
            let source = if address.is_ipv4() { v4 } else { v6 };
            writeln!(routes, "route replace {address} dev {device} src {source}").unwrap();
        }
        lab.netns(&Host::Node).unwrap().configure(&routes).unwrap();
    }
}

/// Creates or changes a policy of the namespace `default`.
pub(crate) fn apply_policy(lab: &Lab, name: &str, annotations: &Value, spec: &Value) {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": "default", "name": name, "annotations": annotations },
        "spec": spec,
    });
    lab.manifests().write_object(&policy_file(name), &object).unwrap();
}

/// The pinned maps, opened alongside the agent.
pub(crate) fn maps(lab: &Lab) -> Datapath {
    let pin_root = Some(lab.agent_config().pins.clone());
    let config = netpol_datapath::Config {
        pin_root,
        mount: Mount::Never,
        ..netpol_datapath::Config::default()
    };
    Datapath::load(&config).unwrap()
}

/// Waits until these Services are in the maps.
pub(crate) fn wait_for_services(lab: &Lab, services: &[Service]) {
    let maps = maps(lab);
    until("the Services' addresses in the maps", LIMIT, || {
        let known = maps.map_state()?.defer;
        let mut addresses = services.iter().flat_map(|service| &service.addresses);
        let is_known = addresses.all(|address| known.contains(&(*address).into()));
        Ok(if is_known { Look::Done(()) } else { Look::NotYet(format!("{known:?}")) })
    })
    .unwrap();
}

/// The file of a policy.
pub(crate) fn policy_file(name: &str) -> String {
    format!("policy-{name}.yaml")
}

/// A policy that allows a pod to reach these peers only.
pub(crate) fn egress_only_to(pod: &str, peers: &Value) -> Value {
    json!({
        "podSelector": { "matchLabels": { "app": pod } },
        "policyTypes": ["Egress"],
        "egress": [{ "to": peers }],
    })
}

/// Waits until TCP and UDP from a host to all these addresses pass, or do not pass, at the same time.
pub(crate) fn expect(lab: &Lab, from: &Host, expected: &[(Passing, Vec<SocketAddr>)]) {
    let mut wanted = Vec::new();
    for (passing, destinations) in expected {
        let outcome = match passing {
            Passing::Yes => Outcome::Passed,
            Passing::No => Outcome::Silent,
        };
        for &destination in destinations {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                wanted.push((Probe { protocol, destination }, outcome.clone()));
            }
        }
    }
    let probes: Vec<_> = wanted.iter().map(|(probe, _)| *probe).collect();
    let tries = [(from.clone(), probes)];
    until(&format!("exchanges of {from}"), LIMIT, || {
        let outcomes = lab.probe(&tries)?.concat();
        let wrong: Vec<_> = wanted
            .iter()
            .zip(&outcomes)
            .filter(|((_, wanted), outcome)| wanted != *outcome)
            .map(|((probe, wanted), outcome)| format!("{probe}: {outcome:?}, not {wanted:?}"))
            .collect();
        Ok(if wrong.is_empty() { Look::Done(()) } else { Look::NotYet(wrong.join(", ")) })
    })
    .unwrap();
    let differ: Vec<String> = wanted
        .iter()
        .filter_map(|(probe, outcome)| {
            let passing = if outcome.is_passed() { Passing::Yes } else { Passing::No };
            lab.check_explanations(from, *probe, passing).err().map(|error| error.to_string())
        })
        .collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
