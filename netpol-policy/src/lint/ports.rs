//! Checks for port names, and for Service ports.

use netpol_common::ids::Direction;

use super::checks::{SERVICE_PORT, UNKNOWN_PORT_NAME};
use super::context::{LocatedRule, ObjectSet};
use super::finding::Report;
use crate::model::{
    BackendPort, Peer, Pod, PodInWords, PortName, PortRange, PortSpec, Ports, Service, Transport,
};

pub(super) fn check(objects: &ObjectSet<'_>, rule: &LocatedRule<'_>, report: &mut Report<'_>) {
    let Ports::AnyOf(items) = &rule.spec.ports else { return };
    for (index, item) in items.iter().enumerate() {
        if let PortSpec::Range(range) = item.ports
            && let Some(message) = translated(objects, rule, item.transport, range)
        {
            report.add(&SERVICE_PORT, rule.port_field(index), message);
        }
    }
    let named = items.iter().enumerate().filter_map(|(index, item)| match &item.ports {
        PortSpec::Named(name) => Some((index, item.transport, name)),
        PortSpec::Any | PortSpec::Range(_) => None,
    });
    for (index, transport, name) in named {
        if let Some(message) = unknown(objects, rule, transport, name) {
            report.add(&UNKNOWN_PORT_NAME, rule.port_field(index), message);
        }
    }
}

/// The message for a port name that no destination pod has; `None` if one has it, or if there is no destination pod.
fn unknown(
    objects: &ObjectSet<'_>,
    rule: &LocatedRule<'_>,
    transport: Transport,
    name: &PortName,
) -> Option<String> {
    let policy = rule.policy;
    let destinations: Vec<&Pod> = match rule.direction {
        Direction::Ingress => objects
            .state
            .pods_in(&policy.name.namespace)
            .filter(|pod| policy.pod_selector.matches(&pod.labels))
            .collect(),
        Direction::Egress => objects.state.pods().collect(),
    };
    let has = |transport| {
        destinations.iter().any(|pod| pod.named_ports(name, transport).next().is_some())
    };
    if destinations.is_empty() || has(transport) {
        return None;
    }
    let whose = match rule.direction {
        Direction::Ingress => "no selected pod",
        Direction::Egress => "no pod",
    };
    let other = Transport::ALL.into_iter().find(|transport| has(*transport));
    let hint =
        other.map(|other| format!(", but a {other} port of this name exists")).unwrap_or_default();
    Some(format!("{whose} has a {transport} port named {name}{hint}"))
}

/// The message for a port of a Service that is not a port of its backend pods; `None` unless this is so for every Service of
/// the destination pods.
fn translated(
    objects: &ObjectSet<'_>,
    rule: &LocatedRule<'_>,
    transport: Transport,
    range: PortRange,
) -> Option<String> {
    let number = (range.first() == range.last()).then_some(range.first())?;
    let destinations = destinations(objects, rule);
    let declares = |pod: &&Pod| {
        pod.ports.iter().any(|port| (port.transport, port.number) == (transport, number))
    };
    if destinations.iter().any(declares) {
        return None;
    }
    let mut moved = None;
    for service in objects.state.services() {
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
        "{transport}/{number} is a port of Service {}, whose target port on {} is {other}",
        service.name,
        PodInWords(&pod.name)
    ))
}

/// The pod's port that a port of the Service is translated to.
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

/// The pods whose ports a rule allows, without those that only an `ipBlock` allows.
fn destinations<'a>(objects: &ObjectSet<'a>, rule: &LocatedRule<'_>) -> Vec<&'a Pod> {
    let policy = rule.policy;
    match rule.direction {
        Direction::Ingress => objects
            .state
            .pods_in(&policy.name.namespace)
            .filter(|pod| policy.pod_selector.matches(&pod.labels))
            .collect(),
        Direction::Egress => {
            let selects = |pod: &&Pod| {
                rule.peers().iter().any(|peer| match peer {
                    Peer::IpBlock(_) => false,
                    Peer::Pods { namespaces, pods } => {
                        objects.is_in(namespaces, policy, pod) && pods.matches(&pod.labels)
                    }
                })
            };
            objects.state.pods().filter(selects).collect()
        }
    }
}
