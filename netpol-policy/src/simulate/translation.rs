//! Addresses and ports that a node translates to a backend: those of Services, `nodePorts` and `hostPorts`.
//!
//! In: a source, and the address and port that it connects to. Out: one [`Route`] for each backend. Must not: evaluate policies.
//!
//! Source: core/v1 `ServicePort.nodePort`, `ServiceSpec.externalTrafficPolicy`, `ContainerPort.hostPort`.

use std::net::IpAddr;

use super::routes::{Route, Translation, backends_of, direct, own_addresses};
use crate::model::{Pod, Service, Transport};
use crate::resolve::{is_any_node, is_own_node, is_service};
use crate::store::ClusterState;

/// The connections to the backends behind an address and port. `None` if no node translates them.
pub(crate) fn behind(
    state: &ClusterState,
    source: IpAddr,
    original: (IpAddr, u16),
    transport: Transport,
) -> Option<Vec<Route>> {
    let (address, number) = original;
    let is_node = is_any_node(state, address);
    let entry = Entry { state, source, original, transport, is_node };
    let mut found = Vec::new();
    let is_own = state.owner(source).is_some_and(|pod| is_own_node(state, pod, address));
    let mut is_translated = is_service(state, address) && !is_own;
    for service in state.services() {
        let has_address = service.addresses.contains(&address)
            && (!is_own || state.is_translated_at(service, address));
        if !has_address && !is_node {
            continue;
        }
        for port in service.ports.iter().filter(|port| port.transport == transport) {
            let is_node_port = is_node && port.node_port == Some(number);
            let is_service_port = has_address && port.number == number;
            if !(is_node_port || is_service_port) {
                continue;
            }
            is_translated = true;
            let is_external = is_node_port || service.external_addresses.contains(&address);
            for (addresses, number) in backends_of(state, service, port) {
                let backend = addresses.into_iter().find(|own| own.is_ipv4() == address.is_ipv4());
                let Some(backend) = backend else { continue };
                let arriving_source =
                    if is_external { entry.external(service, backend) } else { Some(source) };
                found.extend(arriving_source.map(|source| entry.route(backend, number, source)));
            }
        }
    }
    let translating = is_node.then(|| state.pods()).into_iter().flatten();
    for pod in translating.filter(|pod| !pod.host_network) {
        let of_number = |found| found == (transport, Some(number));
        let mut ports = pod.ports.iter().filter(|port| of_number((port.transport, port.host_port)));
        let Some(port) = ports.next().filter(|_| is_own_node(state, pod, address)) else {
            continue;
        };
        is_translated = true;
        let mut addresses = own_addresses(state, pod).into_iter();
        let backend = addresses.find(|own| own.is_ipv4() == address.is_ipv4());
        found.extend(backend.map(|backend| entry.route(backend, port.number, source)));
    }
    is_translated.then_some(found)
}

/// A connection before its translation.
struct Entry<'a> {
    state: &'a ClusterState,
    source: IpAddr,
    original: (IpAddr, u16),
    transport: Transport,
    /// Whether the destination is an address of a node, which then does the translation.
    is_node: bool,
}

impl Entry<'_> {
    fn route(&self, destination: IpAddr, port: u16, arriving_source: IpAddr) -> Route {
        let Self { state, source, original, transport, is_node } = *self;
        let sender = state.owner(source);
        let is_other_node =
            is_node && sender.is_some_and(|pod| !is_own_node(state, pod, original.0));
        let translation =
            if is_other_node { Translation::Elsewhere } else { Translation::AtSource };
        let direct = direct(source, (destination, port), transport);
        Route { arriving_source, original, translation, ..direct }
    }

    /// The source address that a backend of a `nodePort` or an external address observes. `None` if the connection does not reach
    /// the backend.
    ///
    /// A node replaces the source address by its own, so that the answers return through it, unless `externalTrafficPolicy` is
    /// `Local`.
    fn external(&self, service: &Service, backend: IpAddr) -> Option<IpAddr> {
        let Self { state, source, original: (address, _), is_node, .. } = *self;
        let sender = state.owner(source);
        let backend_pod = state.owner(backend);
        if service.keeps_source {
            let is_here = |pod: &Pod| is_own_node(state, pod, address);
            // Pods connect to every backend; others to those of the node that they connect to.
            let is_reached = sender.is_some() || !is_node || backend_pod.is_some_and(is_here);
            return is_reached.then_some(source);
        }
        if is_node {
            let is_same = self.is_same_node(address);
            return Some(if is_same { source } else { address });
        }
        if sender.is_none() && is_any_node(state, source) {
            return Some(source);
        }
        // The node that translates is that of the sender, or one that is not known: that of the backend stands for it.
        let node = sender.or(backend_pod).and_then(|pod| state.node(&pod.node));
        let mut own = node.into_iter().flat_map(|node| &node.addresses);
        let own = own.find(|own| own.is_ipv4() == address.is_ipv4());
        Some(own.copied().unwrap_or(source))
    }

    /// Whether the source is the node that has the address.
    fn is_same_node(&self, address: IpAddr) -> bool {
        let Self { state, source, .. } = *self;
        let is_device = |address: &IpAddr| state.own_addresses().contains(address);
        let is_listed =
            |address: &IpAddr| state.nodes().any(|node| node.addresses.contains(address));
        source == address
            || state
                .nodes()
                .any(|node| [source, address].iter().all(|own| node.addresses.contains(own)))
            || is_device(&source)
                && is_device(&address)
                && !(is_listed(&source) && is_listed(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::parse;
    use crate::simulate::{Cluster, Engine, PodOrIp, PortChoice, Probe, explain};

    const OBJECTS: &str = r"
{ apiVersion: v1, kind: Node, metadata: { name: n1 }, status: { addresses: [{ type: InternalIP, address: 192.168.0.1 }] } }
---
{ apiVersion: v1, kind: Node, metadata: { name: n2 }, status: { addresses: [{ type: InternalIP, address: 192.168.0.2 }] } }
---
apiVersion: v1
kind: Pod
metadata: { name: client, namespace: x, labels: { app: client } }
spec: { nodeName: n1 }
status: { phase: Running, podIP: 10.0.0.1 }
---
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: x, labels: { app: web } }
spec: { nodeName: n1, containers: [{ name: c, ports: [{ containerPort: 80, hostPort: 8080 }] }] }
status: { phase: Running, podIP: 10.0.0.2 }
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: x }
spec: { selector: { app: web }, clusterIP: 10.96.0.1, externalIPs: [203.0.113.1], ports: [{ port: 80, nodePort: 30001 }] }
---
apiVersion: v1
kind: Service
metadata: { name: local, namespace: x }
spec:
  selector: { app: web }
  clusterIP: 10.96.0.2
  externalIPs: [203.0.113.2]
  externalTrafficPolicy: Local
  ports: [{ port: 80, nodePort: 30002 }]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web, namespace: x }
spec:
  podSelector: { matchLabels: { app: web } }
  ingress: [{ from: [{ podSelector: { matchLabels: { app: client } } }, { ipBlock: { cidr: 9.9.9.9/32 } }] }]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: client, namespace: x }
spec:
  podSelector: { matchLabels: { app: client } }
  policyTypes: [Egress]
  egress: [{ to: [{ podSelector: { matchLabels: { app: web } } }] }]
";

    /// The verdict of every engine, with the addresses that the destination observes; or why there is no connection.
    fn verdict(from: &str, to: &str, port: u16) -> String {
        let probe = Probe {
            from: from.parse().unwrap(),
            to: PodOrIp::Address(to.parse().unwrap()),
            port: PortChoice::Number(port),
            transport: Transport::Tcp,
        };
        let mut found: Vec<String> = Vec::new();
        for engine in [Engine::Reference, Engine::compiled()] {
            let mut cluster = Cluster::new(engine);
            let objects = parse("x", OBJECTS).objects.into_iter().map(|read| read.object);
            cluster.set(objects.collect()).unwrap();
            let explanation = explain(cluster.state(), &probe, [], |_, _| false);
            if let Some(problem) = explanation.problem {
                return problem;
            }
            let is_allowed = cluster.probe(&probe).unwrap().is_allowed;
            assert_eq!(is_allowed, explanation.is_allowed, "{from} to {to}:{port}");
            let packets = explanation.connection.unwrap();
            let verdict = if is_allowed { "allowed" } else { "denied" };
            let (source, destination) = (packets.source, packets.destination);
            found.push(format!("{source} -> {destination}:{} {verdict}", packets.port));
        }
        found.dedup();
        found.join(", ")
    }

    #[test]
    fn a_node_replaces_the_source_address_of_external_traffic() {
        for (from, to, port, expected) in [
            ("x/client", "10.96.0.1", 80, "10.0.0.1 -> 10.0.0.2:80 allowed"),
            // The pod behind a node port or an external address observes the node.
            ("x/client", "192.168.0.1", 30001, "192.168.0.1 -> 10.0.0.2:80 denied"),
            ("x/client", "203.0.113.1", 80, "192.168.0.1 -> 10.0.0.2:80 denied"),
            ("9.9.9.9", "192.168.0.1", 30001, "192.168.0.1 -> 10.0.0.2:80 denied"),
            ("9.9.9.9", "192.168.0.2", 30001, "192.168.0.2 -> 10.0.0.2:80 denied"),
            ("9.9.9.9", "203.0.113.1", 80, "192.168.0.1 -> 10.0.0.2:80 denied"),
            // With externalTrafficPolicy Local it observes the client.
            ("x/client", "192.168.0.1", 30002, "10.0.0.1 -> 10.0.0.2:80 allowed"),
            ("9.9.9.9", "192.168.0.1", 30002, "9.9.9.9 -> 10.0.0.2:80 allowed"),
            ("9.9.9.9", "203.0.113.2", 80, "9.9.9.9 -> 10.0.0.2:80 allowed"),
            ("8.8.8.8", "192.168.0.1", 30002, "8.8.8.8 -> 10.0.0.2:80 denied"),
            // The node itself passes, another node does not.
            ("192.168.0.1", "192.168.0.1", 30001, "192.168.0.1 -> 10.0.0.2:80 allowed"),
            ("192.168.0.2", "192.168.0.1", 30001, "192.168.0.1 -> 10.0.0.2:80 denied"),
        ] {
            assert_eq!(verdict(from, to, port), expected, "{from} to {to}:{port}");
        }
    }

    #[test]
    fn with_a_local_traffic_policy_a_node_without_a_backend_drops() {
        let problem = "192.168.0.2 has no backend pod for this port";
        assert_eq!(verdict("9.9.9.9", "192.168.0.2", 30002), problem);
    }

    #[test]
    fn the_egress_of_a_pod_to_another_node_is_judged_on_the_address_of_that_node() {
        let denied = "192.168.0.2 -> 10.0.0.2:80 denied";
        assert_eq!(verdict("x/client", "192.168.0.2", 30001), denied);
    }

    #[test]
    fn a_host_port_is_of_the_node_of_its_pod_and_keeps_the_source() {
        for (from, to, port, expected) in [
            ("9.9.9.9", "192.168.0.1", 8080, "9.9.9.9 -> 10.0.0.2:80 allowed"),
            ("8.8.8.8", "192.168.0.1", 8080, "8.8.8.8 -> 10.0.0.2:80 denied"),
            ("x/client", "192.168.0.1", 8080, "10.0.0.1 -> 10.0.0.2:80 allowed"),
            ("9.9.9.9", "192.168.0.2", 8080, "9.9.9.9 -> 192.168.0.2:8080 allowed"),
            ("x/client", "192.168.0.1", 22, "10.0.0.1 -> 192.168.0.1:22 allowed"),
        ] {
            assert_eq!(verdict(from, to, port), expected, "{from} to {to}:{port}");
        }
    }
}
