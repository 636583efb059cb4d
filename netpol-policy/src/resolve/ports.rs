//! Port lists with names resolved.

use std::collections::BTreeSet;

use crate::model::{Pod, PortMatch, PortRange, PortSpec, Ports, Transport};

/// Destination ports that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortSet {
    /// Every port of every protocol, and protocols without ports.
    All,
    /// These. Empty: none.
    AnyOf(BTreeSet<TransportPorts>),
}

impl PortSet {
    /// Whether it matches nothing.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::AnyOf(ports) if ports.is_empty())
    }
}

/// Ports of one transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransportPorts {
    /// The protocol.
    pub transport: Transport,
    /// The ports; `None` is all of them.
    pub range: Option<PortRange>,
}

/// Whether any item is a name.
pub(super) fn has_names(ports: &Ports) -> bool {
    match ports {
        Ports::All => false,
        Ports::AnyOf(items) => items.iter().any(|item| matches!(item.ports, PortSpec::Named(_))),
    }
}

/// The items with numbers.
pub(super) fn numbered(ports: &Ports) -> PortSet {
    match ports {
        Ports::All => PortSet::All,
        Ports::AnyOf(items) => PortSet::AnyOf(items.iter().filter_map(number).collect()),
    }
}

fn number(item: &PortMatch) -> Option<TransportPorts> {
    let range = match item.ports {
        PortSpec::Any => None,
        PortSpec::Range(range) => Some(range),
        PortSpec::Named(_) => return None,
    };
    Some(TransportPorts { transport: item.transport, range })
}

/// The items with names, with the numbers that this destination pod gives them.
pub(super) fn named(ports: &Ports, pod: &Pod) -> BTreeSet<TransportPorts> {
    let mut open = BTreeSet::new();
    if let Ports::AnyOf(items) = ports {
        for item in items {
            if let PortSpec::Named(name) = &item.ports {
                let numbers = pod.named_ports(name, item.transport).filter_map(PortRange::single);
                open.extend(
                    numbers.map(|range| TransportPorts {
                        transport: item.transport,
                        range: Some(range),
                    }),
                );
            }
        }
    }
    open
}

/// All items, with the numbers that this destination pod gives to names.
pub(super) fn resolve_on(ports: &Ports, pod: &Pod) -> PortSet {
    match numbered(ports) {
        PortSet::All => PortSet::All,
        PortSet::AnyOf(mut open) => {
            open.extend(named(ports, pod));
            PortSet::AnyOf(open)
        }
    }
}
