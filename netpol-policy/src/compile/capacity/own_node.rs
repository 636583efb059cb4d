//! The addresses of the own node, the ports of it that are translated, and the backends of Services on its network: the content of
//! `OWN_NODE` and `NODE_BACKENDS`.
//!
//! In: the node's addresses, the Services and the pods of the node. Out: the entries, at most as many as the maps hold. A port
//! that does not fit counts as one that is not translated: connections to it are judged at the node's address. The addresses of a Service
//! whose backends do not fit count as the node's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::{PortBe, Protocol};
use netpol_common::keys::{BackendValue, NodeKey};
use netpol_common::maps;

use crate::model::{ContainerPort, Service, ServicePort};
use crate::resolve::{TranslatedPort, backends_on_host, translated_for};
use crate::store::ClusterState;

/// The content of the two maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::compile) struct OwnNode {
    /// `OWN_NODE`.
    pub(in crate::compile) keys: BTreeSet<NodeKey>,
    /// `NODE_BACKENDS`.
    pub(in crate::compile) backends: BTreeMap<NodeKey, BackendValue>,
}

/// The content for this state, with ports that are translated for pods.
pub(in crate::compile) fn wanted(
    state: &ClusterState,
    host_ports: &BTreeSet<TranslatedPort>,
) -> OwnNode {
    let (backends, excess) = backends(state);
    let own = state.own_addresses().iter().map(|address| Addr::from(*address));
    let addresses = own.chain(excess).map(NodeKey::address);
    let of_services = state.services().flat_map(|service| translated_for(state, service));
    let ports: BTreeSet<NodeKey> = of_services.chain(host_ports.iter().copied()).map(key).collect();
    let capacity = usize::try_from(maps::MAX_OWN_NODE).unwrap_or(usize::MAX);
    OwnNode { keys: addresses.chain(ports).take(capacity).collect(), backends }
}

fn key(TranslatedPort { at, transport, number }: TranslatedPort) -> NodeKey {
    let (protocol, port) = (transport.to_wire(), PortBe::new(number));
    match at {
        None => NodeKey::port(protocol, port),
        Some(address) => NodeKey::port_of(Addr::from(address), protocol, port),
    }
}

/// The ports that are translated for the pods of the node (`hostPort`), at each of its addresses.
pub(in crate::compile) fn host_ports(state: &ClusterState) -> BTreeSet<TranslatedPort> {
    let pods = state.endpoints().filter_map(|endpoint| state.pod_of(endpoint));
    let with_ports = pods.filter(|pod| pod.ports.iter().any(|port| port.host_port.is_some()));
    let mut found = BTreeSet::new();
    let mut nodes_of = None;
    for pod in with_ports {
        let nodes_of = nodes_of.get_or_insert_with(|| nodes(state));
        for (address, nodes) in &*nodes_of {
            // A simulation has the addresses of all nodes; an agent has other addresses of its own node, which no Node lists.
            if !nodes.is_empty() && !nodes.contains(&pod.node) {
                continue;
            }
            let ports = pod.ports.iter().filter_map(|port| {
                let ContainerPort { transport, host_port, .. } = *port;
                Some(TranslatedPort { at: Some(*address), transport, number: host_port? })
            });
            found.extend(ports);
        }
    }
    found
}

/// The own addresses, each with the names of the nodes that have it, if any is known.
fn nodes(state: &ClusterState) -> BTreeMap<IpAddr, BTreeSet<Arc<str>>> {
    let mut found: BTreeMap<IpAddr, BTreeSet<Arc<str>>> =
        state.own_addresses().iter().map(|address| (*address, BTreeSet::new())).collect();
    for node in state.nodes() {
        for address in &node.addresses {
            if let Some(nodes) = found.get_mut(address) {
                nodes.insert(Arc::clone(&node.name));
            }
        }
    }
    for pod in state.pods_on_host() {
        for address in &pod.reported_addresses {
            if let Some(nodes) = found.get_mut(address) {
                nodes.insert(Arc::clone(&pod.node));
            }
        }
    }
    found
}

/// The backends on the own node's network of every port of a Service, and the addresses of Services whose backends do not fit.
fn backends(state: &ClusterState) -> (BTreeMap<NodeKey, BackendValue>, BTreeSet<Addr>) {
    let mut by_port: BTreeMap<NodeKey, BTreeSet<BackendValue>> = BTreeMap::new();
    if state.judges_own_node() {
        for service in state.services().filter(|service| !service.addresses.is_empty()) {
            for port in &service.ports {
                add(state, service, port, &mut by_port);
            }
        }
    }
    let capacity = usize::try_from(maps::MAX_NODE_BACKENDS / 2).unwrap_or(usize::MAX);
    let mut backends = BTreeMap::new();
    let mut excess = BTreeSet::new();
    for (key, values) in by_port {
        let n_values = values.len().min(usize::from(maps::MAX_BACKENDS_OF_PORT));
        if backends.len() + n_values > capacity {
            excess.insert(key.addr);
            continue;
        }
        // With more of them than the map takes, only rules for every address count.
        let values = if values.len() > n_values {
            BTreeSet::from([BackendValue::unknown(key.port)])
        } else {
            values
        };
        backends.extend((0..).map(|index| key.at(index)).zip(values));
    }
    (backends, excess)
}

fn add(
    state: &ClusterState,
    service: &Service,
    port: &ServicePort,
    by_port: &mut BTreeMap<NodeKey, BTreeSet<BackendValue>>,
) {
    let known = backends_on_host(state, service, port);
    let protocol: Protocol = port.transport.to_wire();
    for address in &service.addresses {
        let values: BTreeSet<BackendValue> = match &known {
            None => BTreeSet::from([BackendValue::unknown(PortBe::new(port.number))]),
            Some(found) => {
                let is_own = |backend: &IpAddr| {
                    backend.is_ipv4() == address.is_ipv4()
                        && state.own_addresses().contains(backend)
                };
                let own = found.iter().filter(|(backend, _)| is_own(backend));
                let value = |(backend, number): &(IpAddr, u16)| {
                    BackendValue::new(Addr::from(*backend), PortBe::new(*number))
                };
                own.map(value).collect()
            }
        };
        if !values.is_empty() {
            let key = NodeKey::port_of(Addr::from(*address), protocol, PortBe::new(port.number));
            by_port.entry(key).or_default().extend(values);
        }
    }
}
