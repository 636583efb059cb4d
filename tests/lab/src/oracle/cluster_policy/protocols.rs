//! Items of `protocols`.

use serde_json::Value;

use super::super::{Talk, field, has_only, ports};
use super::has_one_field;
use crate::case::Protocol;

/// The fields of an item that are protocols.
const PROTOCOLS: [(&str, Protocol); 3] =
    [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];

/// Whether an item is understood: exactly one of the protocols, or the name of a port (C8).
pub(super) fn is_sound(item: &Value) -> bool {
    let protocol = PROTOCOLS.into_iter().find_map(|(name, _)| field(item, name));
    has_only(item, &["tcp", "udp", "sctp", "destinationNamedPort"])
        && has_one_field(item)
        && match protocol {
            Some(protocol) => {
                protocol.is_object()
                    && has_only(protocol, &["destinationPort"])
                    && field(protocol, "destinationPort").is_none_or(port_is_sound)
            }
            None => name(item).is_some(),
        }
}

/// A port is either a number or a range of two at least.
fn port_is_sound(port: &Value) -> bool {
    let is_valid = match (field(port, "number"), field(port, "range")) {
        (Some(only), None) => number(only).is_some(),
        (None, Some(range)) => {
            let end = |name| field(range, name).and_then(number);
            has_only(range, &["start", "end"])
                && matches!((end("start"), end("end")), (Some(start), Some(end)) if start < end)
        }
        _ => false,
    };
    is_valid && has_only(port, &["number", "range"])
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().filter(|number| (1..=65535).contains(number))
}

fn name(item: &Value) -> Option<&str> {
    field(item, "destinationNamedPort")?.as_str().filter(|name| !name.is_empty())
}

/// Whether an understood item matches a connection.
pub(super) fn matches(item: &Value, talk: &Talk<'_>) -> bool {
    if let Some(name) = name(item) {
        // The destination pod's own numbers, of the protocol for which it has the name.
        return talk
            .destination_pod
            .is_some_and(|pod| ports::declared(pod, name, talk.protocol).contains(&talk.port));
    }
    let is_it = |(name, protocol)| {
        let fields = field(item, name).filter(|_| protocol == talk.protocol)?;
        let Some(port) = field(fields, "destinationPort") else { return Some(true) };
        let (first, last) = match field(port, "range") {
            Some(range) => (field(range, "start")?, field(range, "end")?),
            None => (field(port, "number")?, field(port, "number")?),
        };
        Some((number(first)?..=number(last)?).contains(&u64::from(talk.port)))
    };
    PROTOCOLS.into_iter().any(|known| is_it(known) == Some(true))
}
