//! Items of `ports`.

use serde_json::Value;

use super::{Talk, field, has_only, list, text};
use crate::case::Protocol;

/// Whether one item of a rule's `ports` is well formed and matches.
pub(super) fn matches(item: &Value, talk: &Talk<'_>) -> bool {
    // A missing protocol is TCP [12].
    let protocol = text(item, &["protocol"]).unwrap_or("TCP");
    if !is_sound(item) || protocol != talk.protocol.as_str() {
        return false;
    }
    match field(item, "port") {
        // Every port of the protocol [13].
        None => true,
        // The destination pod must name this port of this protocol so [15].
        Some(Value::String(name)) => talk
            .destination_pod
            .is_some_and(|pod| declared(pod, name, talk.protocol).contains(&talk.port)),
        Some(first) => {
            let last = field(item, "endPort").unwrap_or(first);
            let is_within = |first: &Value, last: &Value| {
                Some(
                    first.as_u64()? <= u64::from(talk.port)
                        && u64::from(talk.port) <= last.as_u64()?,
                )
            };
            is_within(first, last) == Some(true)
        }
    }
}

/// Whether an item is valid [12, 13, 14, 15, 16].
pub(super) fn is_sound(item: &Value) -> bool {
    let protocol = match field(item, "protocol") {
        None => true,
        Some(protocol) => matches!(protocol.as_str(), Some("TCP" | "UDP" | "SCTP")),
    };
    let port = match (field(item, "port"), field(item, "endPort")) {
        (None, None) => true,
        (Some(Value::String(name)), None) => is_name(name),
        (Some(port), None) => number(port).is_some(),
        (Some(port), Some(end)) => {
            matches!((number(port), number(end)), (Some(port), Some(end)) if port <= end)
        }
        (None, Some(_)) => false,
    };
    protocol && port && has_only(item, &["protocol", "port", "endPort"])
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().filter(|number| (1..=65535).contains(number))
}

/// Whether this is a port name (item 15).
fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 15
        && name.starts_with(is_plain)
        && name.ends_with(is_plain)
        && name.chars().all(|c| is_plain(c) || c == '-')
        && name.chars().any(|c| c.is_ascii_lowercase())
        && !name.contains("--")
}

/// The numbers of a pod's named port: containers first, then sidecars (item 15).
pub(super) fn declared(pod: &Value, name: &str, protocol: Protocol) -> Vec<u16> {
    let is_sidecar = |container: &&Value| text(container, &["restartPolicy"]) == Some("Always");
    let containers = list(pod, &["spec", "containers"]).iter();
    let sidecars = list(pod, &["spec", "initContainers"]).iter().filter(is_sidecar);
    let mut numbers = Vec::new();
    for port in containers.chain(sidecars).flat_map(|container| list(container, &["ports"])) {
        let has_protocol = text(port, &["protocol"]).unwrap_or("TCP") == protocol.as_str();
        if text(port, &["name"]) == Some(name) && has_protocol {
            let number = field(port, "containerPort").and_then(Value::as_u64);
            numbers.extend(number.and_then(|number| u16::try_from(number).ok()));
        }
    }
    numbers
}
