//! Checks for port names, and for Service ports.

use netpol_common::ids::Direction;

use super::checks::{SERVICE_PORT, UNKNOWN_PORT_NAME};
use super::context::{Alike, LocatedRule, ObjectSet};
use super::finding::Report;
use crate::model::{
    BackendPort, Peer, Pod, PodInWords, PortName, PortRange, PortSpec, Ports, Service, Transport,
};

/// Checks the ports of a rule of a policy that selects these pods.
pub(super) fn check<'a>(
    objects: &ObjectSet<'a>,
    rule: &LocatedRule<'_>,
    selected: &[&Alike<'a>],
    report: &mut Report,
) {
    let Ports::AnyOf(items) = &rule.spec.ports else { return };
    for (index, item) in items.iter().enumerate() {
        if let PortSpec::Range(range) = item.ports
            && let Some(message) = translated(objects, rule, selected, item.transport, range)
        {
            report.add(&SERVICE_PORT, rule.port_field(index), message);
        }
    }
    let named = items.iter().enumerate().filter_map(|(index, item)| match &item.ports {
        PortSpec::Named(name) => Some((index, item.transport, name)),
        PortSpec::Any | PortSpec::Range(_) => None,
    });
    for (index, transport, name) in named {
        if let Some(message) = unknown(objects, rule, selected, transport, name) {
            report.add(&UNKNOWN_PORT_NAME, rule.port_field(index), message);
        }
    }
}

/// The message for a port name that no destination pod has; `None` if one has it, or if there is no destination pod.
fn unknown<'a>(
    objects: &ObjectSet<'a>,
    rule: &LocatedRule<'_>,
    selected: &[&Alike<'a>],
    transport: Transport,
    name: &PortName,
) -> Option<String> {
    let has = |transport| match rule.direction {
        Direction::Ingress => {
            selected.iter().any(|alike| alike.pod.named_ports(name, transport).next().is_some())
        }
        Direction::Egress => objects.port_names.contains(&(transport, name)),
    };
    let (whose, is_known) = match rule.direction {
        Direction::Ingress => ("no selected pod", !selected.is_empty()),
        Direction::Egress => ("no pod", objects.has_pods()),
    };
    if !is_known || has(transport) {
        return None;
    }
    let other = Transport::ALL.into_iter().find(|transport| has(*transport));
    let hint =
        other.map(|other| format!(", but a {other} port of this name exists")).unwrap_or_default();
    Some(format!("{whose} has a {transport} port named {name}{hint}"))
}

/// The message for a port of a Service that is not a port of its backend pods; `None` unless this is so for every Service of
/// the destination pods.
fn translated<'a>(
    objects: &ObjectSet<'a>,
    rule: &LocatedRule<'_>,
    selected: &[&Alike<'a>],
    transport: Transport,
    range: PortRange,
) -> Option<String> {
    let number = (range.first() == range.last()).then_some(range.first())?;
    let services = objects.services_with(transport, number);
    if services.is_empty() {
        return None;
    }
    let destinations = destinations(objects, rule, selected);
    let declares = |pod: &&Pod| {
        pod.ports.iter().any(|port| (port.transport, port.number) == (transport, number))
    };
    if destinations.iter().any(declares) {
        return None;
    }
    let mut moved = None;
    for service in services {
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

/// The pods whose ports a rule allows, without those that only an `ipBlock` allows; one of those that are alike.
fn destinations<'a>(
    objects: &ObjectSet<'a>,
    rule: &LocatedRule<'_>,
    selected: &[&Alike<'a>],
) -> Vec<&'a Pod> {
    match rule.direction {
        Direction::Ingress => selected.iter().map(|alike| alike.pod).collect(),
        Direction::Egress => {
            let mut found = Vec::new();
            for peer in rule.peers() {
                if let Peer::Pods { namespaces, pods } = peer {
                    found.extend(objects.of_peer(rule.namespace, namespaces, pods));
                }
            }
            found
        }
    }
}
