//! From a question to the packets that would be sent.

use std::net::IpAddr;
use std::sync::Arc;

use super::probe::{End, PortChoice, Probe, Problem};
use crate::model::{BackendPort, Pod, PodPhase, PortName, ServicePort, Transport};
use crate::resolve::is_service;
use crate::store::ClusterState;

/// A probe with everything looked up: the packets that would be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) source: IpAddr,
    /// Where the source sends them: a Service address, or the same as `destination` and `port`.
    pub(super) asked: (IpAddr, u16),
    /// Where they arrive.
    pub(super) destination: IpAddr,
    pub(super) transport: Transport,
    pub(super) port: u16,
}

/// What a probe means.
#[derive(Clone, Debug)]
pub(super) enum Located {
    /// One way; several when the destination is a Service, one to each pod behind it. Never empty.
    Routes(Vec<Route>),
    /// To a Service with nothing behind it.
    NoBackend { source: IpAddr, asked: (IpAddr, u16) },
}

/// Looks up what a probe means in this state.
///
/// Every pod behind a Service counts: which one a connection meets is chance. Readiness is not known here: pods that run
/// and are not about to end are taken as ready.
pub(super) fn locate(state: &ClusterState, probe: &Probe) -> Result<Located, Problem> {
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
                End::Pod { name, .. } => state.pod(name),
                End::Address(address) => state.owner(*address),
            };
            pod.and_then(|pod| first_number(pod, name, probe.transport)).ok_or_else(|| {
                Problem::UnknownPort {
                    end: probe.to.clone(),
                    name: Arc::clone(name),
                    transport: probe.transport,
                }
            })?
        }
    };
    let transport = probe.transport;
    let asked = (destination, port);
    if !is_service(state, destination) {
        return Ok(Located::Routes(vec![Route { source, asked, destination, transport, port }]));
    }
    let routes: Vec<Route> = backends(state, asked, transport)
        .into_iter()
        .map(|(destination, port)| Route { source, asked, destination, transport, port })
        .collect();
    Ok(if routes.is_empty() {
        Located::NoBackend { source, asked }
    } else {
        Located::Routes(routes)
    })
}

/// Address and port of the pods behind a Service's address and port.
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
        let offered = |port: &&ServicePort| (port.transport, port.number) == (transport, number);
        let Some(port) = service.ports.iter().find(offered) else { continue };
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

/// The addresses that an end can be reached by; never empty.
fn addresses(state: &ClusterState, end: &End) -> Result<Vec<IpAddr>, Problem> {
    let (name, chosen) = match end {
        End::Address(address) => return Ok(vec![address.to_canonical()]),
        End::Pod { name, address } => (name, address.map(|address| address.to_canonical())),
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

/// The addresses at which a pod is.
fn own_addresses(state: &ClusterState, pod: &Pod) -> Vec<IpAddr> {
    if pod.host_network { host_addresses(state, pod) } else { state.held_addresses(pod).collect() }
}

/// What the traffic of a host-network pod comes from: its node's addresses, as the pod reports them or as the node does.
/// Nothing comes from one that has ended.
fn host_addresses(state: &ClusterState, pod: &Pod) -> Vec<IpAddr> {
    if matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed) {
        return Vec::new();
    }
    if !pod.reported_addresses.is_empty() {
        return pod.reported_addresses.to_vec();
    }
    state.node(&pod.node).map(|node| node.addresses.clone()).unwrap_or_default()
}
