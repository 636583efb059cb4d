//! Services and ports that lead to the network of nodes: to host-network pods, and to endpoints with an address of a node.
//!
//! In: the state, and a Service. Out: its backends there, and whether the own node translates a port. What a node does not translate, and
//! what it translates to its own network, passes no second hook. Must not: decide about connections.

use std::net::IpAddr;

use crate::model::{BackendPort, Pod, PodPhase, Service, ServicePort, Transport};
use crate::store::ClusterState;

/// A port at which the own node translates connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TranslatedPort {
    /// At this address only; `None`: at every address of the node.
    pub at: Option<IpAddr>,
    /// The protocol.
    pub transport: Transport,
    /// The port, host byte order.
    pub number: u16,
}

/// The ports of nodes that are translated for a Service: its `nodePorts`, and its ports at an address of the node
/// ([`ClusterState::is_translated_at`]).
///
/// If connections to the own node need a rule, a `nodePort` counts only if no backend is on a node's network. So it is the same on every
/// node.
pub fn translated_for(
    state: &ClusterState,
    service: &Service,
) -> impl Iterator<Item = TranslatedPort> {
    let node_ports = !(state.judges_own_node() && leads_to_host(state, service));
    service.ports.iter().flat_map(move |port| {
        let ServicePort { transport, number, node_port, .. } = *port;
        let node_port = node_port.filter(|_| node_ports);
        let everywhere = node_port.map(|number| TranslatedPort { at: None, transport, number });
        let own = service.addresses.iter().filter(|address| {
            state.own_addresses().contains(*address) && state.is_translated_at(service, **address)
        });
        let own = own.map(move |address| TranslatedPort { at: Some(*address), transport, number });
        everywhere.into_iter().chain(own)
    })
}

/// Whether a backend of the Service may be on the network of a node.
fn leads_to_host(state: &ClusterState, service: &Service) -> bool {
    let has_pod = || {
        service.selector.as_ref().is_some_and(|selector| {
            let namespace = &service.name.namespace;
            let mut pods = state.pods_on_host().filter(|pod| pod.name.namespace == *namespace);
            pods.any(|pod| is_live(pod) && selector.matches(&pod.labels))
        })
    };
    let is_node = |address| state.owner(address).is_none();
    match state.listed_backends(service) {
        None => true,
        Some(mut listed) => listed.any(|backend| is_node(backend.address)) || has_pod(),
    }
}

/// The addresses and ports of the backends of a Service's port on the network of nodes; `None` if they are not known. Pods count from
/// when they are known until they have finished, because the state does not contain readiness.
pub fn backends_on_host(
    state: &ClusterState,
    service: &Service,
    port: &ServicePort,
) -> Option<Vec<(IpAddr, u16)>> {
    let of_port = state
        .listed_backends(service)?
        .filter(|backend| backend.transport == port.transport && backend.port_name == port.name);
    let mut found: Vec<(IpAddr, u16)> =
        of_port.map(|backend| (backend.address, backend.number)).collect();
    if let Some(selector) = &service.selector {
        let namespace = &service.name.namespace;
        let pods = state.pods_on_host().filter(|pod| pod.name.namespace == *namespace);
        for pod in pods.filter(|pod| is_live(pod) && selector.matches(&pod.labels)) {
            let number = match &port.backend {
                BackendPort::Number(number) => Some(*number),
                BackendPort::Named(name) => pod.named_ports(name, port.transport).next(),
            };
            let of_node = || state.node(&pod.node).map(|node| node.addresses.as_slice());
            let addresses = match pod.reported_addresses.as_slice() {
                [] => of_node().unwrap_or_default(),
                reported => reported,
            };
            found.extend(
                number
                    .into_iter()
                    .flat_map(|number| addresses.iter().map(move |address| (*address, number))),
            );
        }
    }
    found.retain(|(address, _)| state.owner(*address).is_none());
    Some(found)
}

fn is_live(pod: &Pod) -> bool {
    !matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed)
}
