//! Port names, and ports of Services.

use netpol_common::ids::Direction;

use super::checks::{SERVICE_PORT, UNKNOWN_PORT_NAME};
use super::{Place, Report, Surroundings};
use crate::model::{
    BackendPort, Peer, Pod, PortName, PortRange, PortSpec, Ports, Service, Transport,
};

pub(super) fn check(around: &Surroundings<'_>, place: &Place<'_>, report: &mut Report<'_>) {
    let Ports::AnyOf(items) = &place.rule.ports else { return };
    for (index, item) in items.iter().enumerate() {
        if let PortSpec::Range(range) = item.ports
            && let Some(message) = translated(around, place, item.transport, range)
        {
            report.add(&SERVICE_PORT, place.port_field(index), message);
        }
    }
    let named = items.iter().enumerate().filter_map(|(index, item)| match &item.ports {
        PortSpec::Named(name) => Some((index, item.transport, name)),
        PortSpec::Any | PortSpec::Range(_) => None,
    });
    for (index, transport, name) in named {
        if let Some(message) = unknown(around, place, transport, name) {
            report.add(&UNKNOWN_PORT_NAME, place.port_field(index), message);
        }
    }
}

/// Why a port name means nothing; `None` if it does, or if there is no pod that could have it.
fn unknown(
    around: &Surroundings<'_>,
    place: &Place<'_>,
    transport: Transport,
    name: &PortName,
) -> Option<String> {
    let policy = place.policy;
    let destinations: Vec<&Pod> = match place.direction {
        Direction::Ingress => around
            .state
            .pods_in(&policy.name.namespace)
            .filter(|pod| policy.pod_selector.matches(&pod.labels))
            .collect(),
        Direction::Egress => around.state.pods().collect(),
    };
    let has = |transport| {
        destinations.iter().any(|pod| pod.named_ports(name, transport).next().is_some())
    };
    if destinations.is_empty() || has(transport) {
        return None;
    }
    let whose = match place.direction {
        Direction::Ingress => "no selected pod",
        Direction::Egress => "no pod",
    };
    let other = Transport::ALL.into_iter().find(|transport| has(*transport));
    let hint = other.map(|other| format!(", only a {other} one")).unwrap_or_default();
    Some(format!("{whose} has a {transport} port named {name}{hint}"))
}

/// Why a port is that of a Service, not of the pods behind it; `None` unless it is so for every Service of these pods.
fn translated(
    around: &Surroundings<'_>,
    place: &Place<'_>,
    transport: Transport,
    range: PortRange,
) -> Option<String> {
    let number = (range.first() == range.last()).then_some(range.first())?;
    let destinations = destinations(around, place);
    let declares = |pod: &&Pod| {
        pod.ports.iter().any(|port| (port.transport, port.number) == (transport, number))
    };
    if destinations.iter().any(declares) {
        return None;
    }
    let mut moved = None;
    for service in around.state.services() {
        for pod in &destinations {
            match backend(service, pod, transport, number) {
                None => {}
                Some(other) if other == number => return None,
                Some(other) => moved = Some((service, pod, other)),
            }
        }
    }
    let (service, pod, other) = moved?;
    Some(format!(
        "{transport}/{number} is a port of Service {}, which is {other} on pod {}",
        service.name, pod.name
    ))
}

/// The port of the pod that a port of the Service leads to.
fn backend(service: &Service, pod: &Pod, transport: Transport, number: u16) -> Option<u16> {
    let is_behind = service.name.namespace == pod.name.namespace
        && service.selector.as_ref().is_some_and(|selector| selector.matches(&pod.labels));
    let offered = service
        .ports
        .iter()
        .find(|port| is_behind && (port.transport, port.number) == (transport, number))?;
    match &offered.backend {
        BackendPort::Number(number) => Some(*number),
        BackendPort::Named(name) => pod.named_ports(name, transport).next(),
    }
}

/// The pods that a rule opens ports of, as far as it selects them by labels.
fn destinations<'a>(around: &Surroundings<'a>, place: &Place<'_>) -> Vec<&'a Pod> {
    let policy = place.policy;
    match place.direction {
        Direction::Ingress => around
            .state
            .pods_in(&policy.name.namespace)
            .filter(|pod| policy.pod_selector.matches(&pod.labels))
            .collect(),
        Direction::Egress => {
            let selects = |pod: &&Pod| {
                place.peers().iter().any(|peer| match peer {
                    Peer::IpBlock(_) => false,
                    Peer::Pods { namespaces, pods } => {
                        around.is_in(namespaces, policy, pod) && pods.matches(&pod.labels)
                    }
                })
            };
            around.state.pods().filter(selects).collect()
        }
    }
}
