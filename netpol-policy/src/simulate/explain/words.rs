//! The phrases that describe a rule: its ports, its peers, and why a peer does not match.

use std::net::IpAddr;

use netpol_common::ids::Direction;

use crate::model::{
    IpBlock, Labels, NamespaceMatch, Peer, Peers, Pod, PodInWords, PortSpec, Ports, Requirement,
    Rule, Selector,
};
use crate::simulate::placeholder::is_placeholder;
use crate::store::ClusterState;

/// The largest number of list items in a sentence; the others are counted.
const MAX_NAMED: usize = 4;

/// The ports of a rule. A port name is followed by its numbers on the destination pod.
pub(super) fn ports(ports: &Ports, destination: Option<&Pod>) -> String {
    let items = match ports {
        Ports::All => return "every port".to_owned(),
        Ports::AnyOf(items) if items.is_empty() => {
            return "no port (every item of `ports` is invalid)".to_owned();
        }
        Ports::AnyOf(items) => items,
    };
    let text = items.iter().map(|item| match (&item.ports, destination) {
        (PortSpec::Any, _) => format!("every {} port", item.transport),
        (PortSpec::Range(_), _) => item.to_string(),
        (PortSpec::Named(_), None) => {
            format!("{item} (a port name, and the destination is not a pod)")
        }
        (PortSpec::Named(name), Some(pod)) => {
            let numbers: Vec<String> =
                pod.named_ports(name, item.transport).map(|number| number.to_string()).collect();
            if numbers.is_empty() {
                format!("{item} ({} has no port of this name)", pod.name)
            } else {
                format!("{item} ({} on {})", numbers.join(" and "), pod.name)
            }
        }
    });
    list(text, ", ")
}

/// The peers of a rule, after a preposition.
pub(super) fn peers(peers: &Peers, direction: Direction) -> String {
    let preposition = Peers::field(direction);
    let text = match peers {
        Peers::All => match direction {
            Direction::Ingress => "all sources".to_owned(),
            Direction::Egress => "all destinations".to_owned(),
        },
        Peers::AnyOf(peers) if peers.is_empty() => {
            format!("no peer (every item of `{preposition}` is invalid)")
        }
        Peers::AnyOf(peers) => list(peers.iter().map(ToString::to_string), ", or "),
    };
    format!("{preposition} {text}")
}

/// The reasons why no peer of a rule matches the address, after a colon.
pub(super) fn why_not(
    state: &ClusterState,
    own_namespace: &str,
    rule: &Rule,
    address: IpAddr,
    pod: Option<&Pod>,
) -> String {
    let Peers::AnyOf(peers) = &rule.peers else { return String::new() };
    let mut reasons: Vec<String> = Vec::new();
    for peer in peers {
        let reason = match peer {
            Peer::IpBlock(block) => why_not_in_block(block, address),
            Peer::Nodes(_) => format!("{address} is the address of no such node"),
            Peer::Pods { namespaces, pods } => match pod {
                None if is_placeholder(address) => {
                    "a pod that uses the host's network has no labels for policies".to_owned()
                }
                None => format!("{address} does not belong to a pod"),
                Some(pod) => why_not_selected(state, own_namespace, pod, namespaces, pods),
            },
        };
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    if reasons.is_empty() { String::new() } else { format!(": {}", list(reasons, "; ")) }
}

fn why_not_in_block(block: &IpBlock, address: IpAddr) -> String {
    if is_placeholder(address) {
        return format!("pods have no address in {block}");
    }
    let excluded = block.except.iter().find(|excluded| excluded.contains(address));
    match excluded {
        Some(excluded) if block.cidr.contains(address) => {
            format!("{address} is in `except` {excluded}")
        }
        Some(_) | None => format!("{address} is not in {}", block.cidr),
    }
}

fn why_not_selected(
    state: &ClusterState,
    own_namespace: &str,
    pod: &Pod,
    namespaces: &NamespaceMatch,
    pods: &Selector,
) -> String {
    let namespace = &pod.name.namespace;
    match namespaces {
        NamespaceMatch::Own if **namespace != *own_namespace => {
            return format!("{} is in another namespace", pod.name);
        }
        NamespaceMatch::Own => {}
        NamespaceMatch::Selected(selector) => {
            let Some(labels) = state.namespace_labels(namespace) else {
                return format!("namespace {namespace} does not exist");
            };
            if let Some(mismatch) = mismatch(selector, labels) {
                return format!("namespace {namespace} {mismatch}");
            }
        }
    }
    let mismatch = mismatch(pods, &pod.labels).unwrap_or_else(|| "does not match".to_owned());
    format!("{} {mismatch}", PodInWords(&pod.name))
}

/// The actual label for the first requirement that the labels do not meet.
fn mismatch(selector: &Selector, labels: &Labels) -> Option<String> {
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

/// Items with separators; of many, the first ones and the number of the others.
pub(super) fn list(items: impl IntoIterator<Item = String>, separator: &str) -> String {
    let mut items: Vec<String> = items.into_iter().collect();
    if items.len() > MAX_NAMED {
        let n_more = items.len() - MAX_NAMED + 1;
        items.truncate(MAX_NAMED - 1);
        items.push(format!("{n_more} more"));
    }
    items.join(separator)
}
