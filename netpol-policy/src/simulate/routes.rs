//! From a probe to the packets that it would send.
//!
//! In: the state and a probe. Out: one [`Route`] for each pod that the connection can reach, with pod names, port names and
//! Services resolved. Must not: evaluate policies.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::probe::{PodOrIp, PortChoice, Probe, Problem};
use super::ranges;
use super::translation::behind;
use crate::model::{
    BackendPort, ObjectName, Pod, PodPhase, PortName, Service, ServiceBackend, ServicePort,
    Transport,
};
use crate::resolve::{
    Connection, Decision, EndDecision, backends_on_host, evaluate, is_own_node, is_translated_by,
};
use crate::store::ClusterState;

/// Addresses and port of one possible connection of a probe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) source: IpAddr,
    /// Source address of the packets that arrive at the destination: that of `source`, or of a node that replaces it.
    pub(crate) arriving_source: IpAddr,
    /// Address and port that the source connects to, before Service translation. Equal to `destination` and `port` if the
    /// address does not belong to a Service.
    pub(crate) original: (IpAddr, u16),
    /// Address that the packets arrive at.
    pub(crate) destination: IpAddr,
    pub(crate) transport: Transport,
    pub(crate) port: u16,
    pub(crate) translation: Translation,
}

/// Where the destination of a connection is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Translation {
    /// Nowhere, or on the node of the source, which then judges its egress on the backend.
    AtSource,
    /// On another node, behind the egress of the source, which is judged on the original destination.
    Elsewhere,
}

impl Route {
    /// Whether the source connects to a Service, whose address the node translates.
    pub(super) fn is_translated(&self) -> bool {
        self.original != (self.destination, self.port)
    }

    /// Address and port on which the egress of the source is judged.
    pub(crate) fn sent_to(&self) -> (IpAddr, u16) {
        match self.translation {
            Translation::AtSource => (self.destination, self.port),
            Translation::Elsewhere => self.original,
        }
    }

    /// The verdict of the reference semantics.
    pub(crate) fn decide(&self, state: &ClusterState) -> Decision {
        let Self {
            source,
            arriving_source,
            original: _,
            destination,
            transport,
            port,
            translation,
        } = *self;
        let (sent_to, sent_port) = self.sent_to();
        let sent = Connection {
            source,
            destination: sent_to,
            transport,
            port: sent_port,
            is_translated: self.is_translated() && translation == Translation::AtSource,
            is_masqueraded: false,
        };
        let arriving = Connection {
            source: arriving_source,
            destination,
            transport,
            port,
            is_translated: self.is_translated(),
            is_masqueraded: arriving_source != source,
        };
        let mut at_source = evaluate(state, &sent);
        if let Some(denied) = self.denied_at_node(state) {
            at_source.egress = Some(denied);
        }
        if sent == arriving {
            return at_source;
        }
        Decision { egress: at_source.egress, ingress: evaluate(state, &arriving).ingress }
    }

    /// Where connections to the own node need a rule: the verdict that denies the connection before it is translated, because it could
    /// be translated to the own node, where no other hook judges it.
    fn denied_at_node(&self, state: &ClusterState) -> Option<EndDecision> {
        let is_here = self.is_translated() && self.translation == Translation::AtSource;
        let pod = state.owner(self.source).filter(|_| is_here && state.judges_own_node())?;
        let (address, number) = self.original;
        let transport = self.transport;
        let is_own = |address| is_own_node(state, pod, address);
        let judged = if is_own(address) && !is_translated_by(state, pod, self.original, transport) {
            vec![self.original]
        } else {
            let services = state.services();
            let of_address = services.filter(|service| service.addresses.contains(&address));
            let ports = of_address.flat_map(|of| of.ports.iter().map(move |port| (of, port)));
            let ports =
                ports.filter(|(_, port)| (port.transport, port.number) == (transport, number));
            let found = ports.filter_map(|(of, port)| backends_on_host(state, of, port)).flatten();
            // Those of other nodes are judged on their address too, wherever that happens.
            found.filter(|(backend, _)| backend.is_ipv4() == address.is_ipv4()).collect()
        };
        let decided = judged.into_iter().filter_map(|(destination, port)| {
            let connection = Connection {
                source: self.source,
                destination,
                transport,
                port,
                is_translated: true,
                is_masqueraded: false,
            };
            evaluate(state, &connection).egress
        });
        let mut denied = decided.filter(|end| !end.verdict.is_pass());
        denied.next()
    }
}

/// The possible connections of a probe.
#[derive(Clone, Debug)]
pub(super) enum Routes {
    /// One route, or one for each backend pod of a Service. Never empty.
    Found(Vec<Route>),
    /// The destination is a Service, or a translated port of a node, without a backend pod for this port.
    NoBackend { source: IpAddr, original: (IpAddr, u16) },
}

/// The largest number of connections of one probe: the ranges of a block of one end times those of the other.
const MAX_ROUTES: usize = 1 << 20;

/// Resolves the pods, the port name and the Service of a probe in this state.
///
/// Of a Service, every backend pod is returned, because load balancing may choose any of them. Pods that run and are not
/// terminating count as ready, because the state does not contain readiness. Of a block, one address is returned for each
/// range that the policies treat alike.
pub(super) fn routes(state: &ClusterState, probe: &Probe) -> Result<Routes, Problem> {
    let sources = if let PodOrIp::Service(name) = &probe.from {
        backends_of_all_ports(state, name)?
    } else {
        alternatives(state, &probe.from)?
    };
    let transport = probe.transport;
    if let PodOrIp::Service(name) = &probe.to
        && state
            .services()
            .find(|service| service.name == *name)
            .is_none_or(|found| found.addresses.is_empty())
    {
        return to_backends(state, &sources, name, probe);
    }
    let mut found = Vec::new();
    for destinations in alternatives(state, &probe.to)? {
        for sources in &sources {
            let common = destinations.iter().find_map(|destination| {
                let mut sources = sources.iter();
                let source = sources.find(|source| source.is_ipv4() == destination.is_ipv4())?;
                Some((*source, *destination))
            });
            let Some((source, destination)) = common else { continue };
            let port = number(state, probe, destination)?;
            let original = (destination, port);
            let Some(behind) = behind(state, source, original, transport) else {
                found.push(direct(source, original, transport));
                continue;
            };
            if behind.is_empty() {
                return Ok(Routes::NoBackend { source, original });
            }
            found.extend(behind);
        }
        if found.len() > MAX_ROUTES {
            break;
        }
    }
    if found.is_empty() { Err(Problem::NoCommonFamily) } else { Ok(Routes::Found(found)) }
}

/// The connections to a Service without an address: its clients connect to the backends that its name resolves to.
fn to_backends(
    state: &ClusterState,
    sources: &[Vec<IpAddr>],
    name: &ObjectName,
    probe: &Probe,
) -> Result<Routes, Problem> {
    let service = state.services().find(|service| service.name == *name);
    let service = service.ok_or_else(|| Problem::UnknownService(name.clone()))?;
    let transport = probe.transport;
    let matches = |port: &&ServicePort| {
        port.transport == transport
            && match &probe.port {
                PortChoice::Number(number) => port.number == *number,
                PortChoice::Name(name) => port.name == *name,
            }
    };
    let mut found = Vec::new();
    for port in service.ports.iter().filter(matches) {
        for (addresses, number) in backends_of(state, service, port) {
            for sources in sources {
                let pair = addresses.iter().find_map(|destination| {
                    let mut sources = sources.iter();
                    let source =
                        sources.find(|source| source.is_ipv4() == destination.is_ipv4())?;
                    Some((*source, *destination))
                });
                found.extend(
                    pair.map(|(source, destination)| {
                        direct(source, (destination, number), transport)
                    }),
                );
            }
        }
    }
    if found.is_empty() {
        let port = probe.port.clone();
        return Err(Problem::NoBackendOf { service: name.clone(), port, transport });
    }
    Ok(Routes::Found(found))
}

/// The number of the port of a probe at a destination.
fn number(state: &ClusterState, probe: &Probe, destination: IpAddr) -> Result<u16, Problem> {
    let name = match &probe.port {
        PortChoice::Number(number) => return Ok(*number),
        PortChoice::Name(name) => name,
    };
    let found = match &probe.to {
        PodOrIp::Service(service) => state
            .services()
            .find(|found| found.name == *service)
            .and_then(|found| {
                let mut ports = found.ports.iter();
                ports.find(|port| port.transport == probe.transport && port.name == *name)
            })
            .map(|port| port.number),
        PodOrIp::Pod { name: pod, .. } => {
            state.pod(pod).and_then(|pod| first_number(pod, name, probe.transport))
        }
        PodOrIp::Address(_) | PodOrIp::Block(_) | PodOrIp::External | PodOrIp::Node(_) => {
            state.owner(destination).and_then(|pod| first_number(pod, name, probe.transport))
        }
    };
    found.ok_or_else(|| Problem::UnknownPort {
        destination: probe.to.clone(),
        name: Arc::clone(name),
        transport: probe.transport,
    })
}

/// The connection to an address that nobody translates.
pub(crate) fn direct(source: IpAddr, original: (IpAddr, u16), transport: Transport) -> Route {
    let (destination, port) = original;
    Route {
        source,
        arriving_source: source,
        original,
        destination,
        transport,
        port,
        translation: Translation::AtSource,
    }
}

/// The addresses and the port of each backend of a port of a Service: the pods that its selector selects, else the endpoints
/// that `EndpointSlices` list.
///
/// Source: core/v1 `ServiceSpec.selector`, `ServicePort.targetPort` (a name is resolved on each pod).
pub(crate) fn backends_of(
    state: &ClusterState,
    service: &Service,
    port: &ServicePort,
) -> Vec<(Vec<IpAddr>, u16)> {
    let Some(selector) = &service.selector else {
        let listed = state.listed_backends(service).into_iter().flatten();
        let of_port = |backend: &&ServiceBackend| {
            backend.transport == port.transport && backend.port_name == port.name
        };
        return listed
            .filter(of_port)
            .map(|backend| (vec![backend.address], backend.number))
            .collect();
    };
    let mut found = Vec::new();
    for pod in state.pods_in(&service.name.namespace) {
        let runs = matches!(pod.phase, PodPhase::Running | PodPhase::Unknown);
        if !runs || pod.terminating || !selector.matches(&pod.labels) {
            continue;
        }
        let number = match &port.backend {
            BackendPort::Number(number) => Some(*number),
            BackendPort::Named(name) => pod.named_ports(name, port.transport).next(),
        };
        found.extend(number.map(|number| (own_addresses(state, pod), number)));
    }
    found
}

fn first_number(pod: &Pod, name: &str, transport: Transport) -> Option<u16> {
    pod.named_ports(&PortName::parse(name)?, transport).next()
}

/// The addresses of each pod, or each range of addresses, that an end of a probe stands for; none of them is empty.
fn alternatives(state: &ClusterState, end: &PodOrIp) -> Result<Vec<Vec<IpAddr>>, Problem> {
    let of_ranges = |ranges: Vec<ranges::Range>| {
        ranges.into_iter().map(|(first, _)| vec![first]).collect::<Vec<_>>()
    };
    let (name, chosen) = match end {
        PodOrIp::Address(address) => return Ok(vec![vec![address.to_canonical()]]),
        PodOrIp::Block(block) => return Ok(of_ranges(ranges::within(state, *block))),
        PodOrIp::External => {
            let found = of_ranges(ranges::external(state));
            return if found.is_empty() { Err(Problem::NothingExternal) } else { Ok(found) };
        }
        PodOrIp::Node(name) => {
            let addresses = node_addresses(state, name);
            return if addresses.is_empty() {
                Err(Problem::UnknownNode(Arc::clone(name)))
            } else {
                Ok(vec![addresses])
            };
        }
        PodOrIp::Service(name) => {
            let service = state.services().find(|service| service.name == *name);
            let service = service.ok_or_else(|| Problem::UnknownService(name.clone()))?;
            return Ok(vec![service.addresses.clone()]);
        }
        PodOrIp::Pod { name, address } => (name, address.map(|address| address.to_canonical())),
    };
    let pod = state.pod(name).ok_or_else(|| Problem::UnknownPod(name.clone()))?;
    let held = own_addresses(state, pod);
    match chosen {
        Some(address) if held.contains(&address) => Ok(vec![vec![address]]),
        Some(address) => Err(Problem::ForeignAddress(name.clone(), address)),
        None if held.is_empty() => Err(Problem::NoAddress(name.clone())),
        None => Ok(vec![held]),
    }
}

/// The addresses of each backend of a Service.
fn backends_of_all_ports(
    state: &ClusterState,
    name: &ObjectName,
) -> Result<Vec<Vec<IpAddr>>, Problem> {
    let service = state.services().find(|service| service.name == *name);
    let service = service.ok_or_else(|| Problem::UnknownService(name.clone()))?;
    let backends = service.ports.iter().flat_map(|port| backends_of(state, service, port));
    let backends: BTreeSet<Vec<IpAddr>> = backends.map(|(addresses, _)| addresses).collect();
    if backends.is_empty() {
        return Err(Problem::NoSource(name.clone()));
    }
    Ok(backends.into_iter().collect())
}

/// The addresses of a node, from the Node and from its pods on the host's network.
fn node_addresses(state: &ClusterState, name: &str) -> Vec<IpAddr> {
    let of_node = state.node(name).into_iter().flat_map(|node| node.addresses.iter().copied());
    let of_pods = state.pods_on_host().filter(|pod| *pod.node == *name);
    let addresses: BTreeSet<IpAddr> =
        of_node.chain(of_pods.flat_map(|pod| pod.reported_addresses.iter().copied())).collect();
    addresses.into_iter().collect()
}

/// The addresses that packets of a pod use.
pub(crate) fn own_addresses(state: &ClusterState, pod: &Pod) -> Vec<IpAddr> {
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
