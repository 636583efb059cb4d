//! From a probe to the packets that it would send.
//!
//! In: the state and a probe. Out: one [`Route`] for each pod that the connection can reach, with pod names, port names and
//! Services resolved. Must not: evaluate policies.

use std::net::IpAddr;
use std::sync::Arc;

use super::probe::{PodOrIp, PortChoice, Probe, Problem};
use crate::model::{BackendPort, Pod, PodPhase, PortName, ServicePort, Transport};
use crate::resolve::is_service;
use crate::store::ClusterState;

/// Addresses and port of one possible connection of a probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) source: IpAddr,
    /// Address and port that the source connects to, before Service translation. Equal to `destination` and `port` if the
    /// address does not belong to a Service.
    pub(super) original: (IpAddr, u16),
    /// Address that the packets arrive at.
    pub(super) destination: IpAddr,
    pub(super) transport: Transport,
    pub(super) port: u16,
}

/// The possible connections of a probe.
#[derive(Clone, Debug)]
pub(super) enum Routes {
    /// One route, or one for each backend pod of a Service. Never empty.
    Found(Vec<Route>),
    /// The destination is a Service without a backend pod for this port.
    NoBackend { source: IpAddr, original: (IpAddr, u16) },
}

/// Resolves the pods, the port name and the Service of a probe in this state.
///
/// Of a Service, every backend pod is returned, because load balancing may choose any of them. Pods that run and are not
/// terminating count as ready, because the state does not contain readiness.
pub(super) fn routes(state: &ClusterState, probe: &Probe) -> Result<Routes, Problem> {
    let sources = addresses(state, &probe.from)?;
    let destinations = addresses(state, &probe.to)?;
    let (source, destination) = destinations
        .iter()
        .find_map(|destination| {
            let source = sources.iter().find(|source| source.is_ipv4() == destination.is_ipv4())?;
            Some((*source, *destination))
        })
        .ok_or(Problem::NoCommonFamily)?;
    let port = match &probe.port {
        PortChoice::Number(number) => *number,
        PortChoice::Name(name) => {
            let pod = match &probe.to {
                PodOrIp::Pod { name, .. } => state.pod(name),
                PodOrIp::Address(address) => state.owner(*address),
            };
            pod.and_then(|pod| first_number(pod, name, probe.transport)).ok_or_else(|| {
                Problem::UnknownPort {
                    destination: probe.to.clone(),
                    name: Arc::clone(name),
                    transport: probe.transport,
                }
            })?
        }
    };
    let transport = probe.transport;
    let original = (destination, port);
    if !is_service(state, destination) {
        return Ok(Routes::Found(vec![Route { source, original, destination, transport, port }]));
    }
    let routes: Vec<Route> = backends(state, original, transport)
        .into_iter()
        .map(|(destination, port)| Route { source, original, destination, transport, port })
        .collect();
    Ok(if routes.is_empty() {
        Routes::NoBackend { source, original }
    } else {
        Routes::Found(routes)
    })
}

/// Address and port of each backend pod of a Service address and port.
///
/// Source: core/v1 `ServiceSpec.selector`, `ServicePort.targetPort` (a name is resolved on each pod).
fn backends(
    state: &ClusterState,
    (address, number): (IpAddr, u16),
    transport: Transport,
) -> Vec<(IpAddr, u16)> {
    let mut found = Vec::new();
    for service in state.services().filter(|service| service.addresses.contains(&address)) {
        let Some(selector) = &service.selector else { continue };
        let matches = |port: &&ServicePort| (port.transport, port.number) == (transport, number);
        let Some(port) = service.ports.iter().find(matches) else { continue };
        for pod in state.pods_in(&service.name.namespace) {
            let runs = matches!(pod.phase, PodPhase::Running | PodPhase::Unknown);
            if !runs || pod.terminating || !selector.matches(&pod.labels) {
                continue;
            }
            let number = match &port.backend {
                BackendPort::Number(number) => Some(*number),
                BackendPort::Named(name) => pod.named_ports(name, transport).next(),
            };
            let own = own_addresses(state, pod);
            let own = own.into_iter().find(|own| own.is_ipv4() == address.is_ipv4());
            found.extend(own.zip(number));
        }
    }
    found
}

fn first_number(pod: &Pod, name: &str, transport: Transport) -> Option<u16> {
    pod.named_ports(&PortName::parse(name)?, transport).next()
}

/// The addresses of a source or destination; never empty.
fn addresses(state: &ClusterState, peer: &PodOrIp) -> Result<Vec<IpAddr>, Problem> {
    let (name, chosen) = match peer {
        PodOrIp::Address(address) => return Ok(vec![address.to_canonical()]),
        PodOrIp::Pod { name, address } => (name, address.map(|address| address.to_canonical())),
    };
    let pod = state.pod(name).ok_or_else(|| Problem::UnknownPod(name.clone()))?;
    let held = own_addresses(state, pod);
    match chosen {
        Some(address) if held.contains(&address) => Ok(vec![address]),
        Some(address) => Err(Problem::ForeignAddress(name.clone(), address)),
        None if held.is_empty() => Err(Problem::NoAddress(name.clone())),
        None => Ok(held),
    }
}

/// The addresses that packets of a pod use.
fn own_addresses(state: &ClusterState, pod: &Pod) -> Vec<IpAddr> {
    if pod.host_network { host_addresses(state, pod) } else { state.held_addresses(pod).collect() }
}

/// The addresses of a host-network pod: those that the pod reports, else those of its node. Empty for a pod that has
/// finished.
fn host_addresses(state: &ClusterState, pod: &Pod) -> Vec<IpAddr> {
    if matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed) {
        return Vec::new();
    }
    if !pod.reported_addresses.is_empty() {
        return pod.reported_addresses.to_vec();
    }
    state.node(&pod.node).map(|node| node.addresses.clone()).unwrap_or_default()
}
