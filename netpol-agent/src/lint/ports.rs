//! Port names.

use netpol_common::ids::Direction;

use super::checks::UNKNOWN_PORT_NAME;
use super::{Place, Report, Surroundings};
use crate::model::{Pod, PortName, PortSpec, Ports, Transport};

pub(super) fn check(around: &Surroundings<'_>, place: &Place<'_>, report: &mut Report<'_>) {
    let Ports::AnyOf(items) = &place.rule.ports else { return };
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
