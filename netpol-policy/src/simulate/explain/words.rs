//! Rules in words.

use std::net::IpAddr;

use netpol_common::ids::Direction;

use crate::model::{
    IpBlock, Labels, NamespaceMatch, Peer, Peers, Pod, Policy, PortSpec, Ports, Requirement, Rule,
    Selector,
};
use crate::store::ClusterState;

/// How many items of a list are named; a sentence must stay one.
const MAX_NAMED: usize = 4;

/// The ports of a rule, names with what they are on this destination.
pub(super) fn ports(ports: &Ports, destination: Option<&Pod>) -> String {
    let items = match ports {
        Ports::All => return "every port".to_owned(),
        Ports::AnyOf(items) if items.is_empty() => {
            return "no port (none of its items was understood)".to_owned();
        }
        Ports::AnyOf(items) => items,
    };
    let text = items.iter().map(|item| match (&item.ports, destination) {
        (PortSpec::Any, _) => format!("every {} port", item.transport),
        (PortSpec::Range(_), _) => item.to_string(),
        (PortSpec::Named(_), None) => format!("{item} (a name that only pods can have)"),
        (PortSpec::Named(name), Some(pod)) => {
            let numbers: Vec<String> =
                pod.named_ports(name, item.transport).map(|number| number.to_string()).collect();
            if numbers.is_empty() {
                format!("{item} (a name that {} does not have)", pod.name)
            } else {
                format!("{item} ({} on {})", numbers.join(" and "), pod.name)
            }
        }
    });
    list(text, ", ")
}

/// The peers of a rule, with their preposition.
pub(super) fn peers(peers: &Peers, direction: Direction) -> String {
    let preposition = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let text = match peers {
        Peers::All => "everybody".to_owned(),
        Peers::AnyOf(peers) if peers.is_empty() => {
            "nobody (none of its peers was understood)".to_owned()
        }
        Peers::AnyOf(peers) => list(peers.iter().map(ToString::to_string), ", or "),
    };
    format!("{preposition} {text}")
}

/// Why no peer of a rule is this one; begins with a colon.
pub(super) fn why_not(
    state: &ClusterState,
    policy: &Policy,
    rule: &Rule,
    address: IpAddr,
    pod: Option<&Pod>,
) -> String {
    let Peers::AnyOf(peers) = &rule.peers else { return String::new() };
    let mut reasons: Vec<String> = Vec::new();
    for peer in peers {
        let reason = match peer {
            Peer::IpBlock(block) => outside(block, address),
            Peer::Pods { namespaces, pods } => match pod {
                None => format!("no pod holds {address}"),
                Some(pod) => unlike(state, policy, pod, namespaces, pods),
            },
        };
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    if reasons.is_empty() { String::new() } else { format!(": {}", list(reasons, "; ")) }
}

fn outside(block: &IpBlock, address: IpAddr) -> String {
    let hole = block.except.iter().find(|hole| hole.contains(address));
    match hole {
        Some(hole) if block.cidr.contains(address) => {
            format!("{address} is in the exception {hole}")
        }
        Some(_) | None => format!("{address} is not in {}", block.cidr),
    }
}

fn unlike(
    state: &ClusterState,
    policy: &Policy,
    pod: &Pod,
    namespaces: &NamespaceMatch,
    pods: &Selector,
) -> String {
    let namespace = &pod.name.namespace;
    match namespaces {
        NamespaceMatch::Own if *namespace != policy.name.namespace => {
            return format!("{} is in another namespace", pod.name);
        }
        NamespaceMatch::Own => {}
        NamespaceMatch::Selected(selector) => {
            let Some(labels) = state.namespace_labels(namespace) else {
                return format!("namespace {namespace} is not known");
            };
            if let Some(shortfall) = shortfall(selector, labels) {
                return format!("namespace {namespace} {shortfall}");
            }
        }
    }
    let shortfall = shortfall(pods, &pod.labels).unwrap_or_else(|| "does not match".to_owned());
    format!("pod {} {shortfall}", pod.name)
}

/// The first requirement that the labels fail, as what they have instead.
fn shortfall(selector: &Selector, labels: &Labels) -> Option<String> {
    let failed = selector.requirements().find(|requirement| !requirement.matches(labels))?;
    let key = match failed {
        Requirement::In(key, _)
        | Requirement::NotIn(key, _)
        | Requirement::Exists(key)
        | Requirement::DoesNotExist(key) => key,
    };
    Some(match labels.get(key) {
        Some(value) => format!("has {key}={value}"),
        None => format!("has no label {key}"),
    })
}

fn list(items: impl IntoIterator<Item = String>, separator: &str) -> String {
    let mut items: Vec<String> = items.into_iter().collect();
    if items.len() > MAX_NAMED {
        let n_more = items.len() - MAX_NAMED + 1;
        items.truncate(MAX_NAMED - 1);
        items.push(format!("{n_more} more"));
    }
    items.join(separator)
}
