//! The API server's validation of a policy.

use serde_json::{Map, Value};

use super::labels::{self, is_subdomain};
use super::policy::peer_is_sound;
use super::{block, field, has_only, ports, text};

/// The fields for which the API server (1.36, strict field validation) refuses to create this policy; empty if it is valid.
///
/// Source: SEMANTICS.md §1 "Validation".
pub fn problems(policy: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |is_sound: bool, path: &str| {
        if !is_sound {
            found.push(path.to_owned());
        }
    };
    let top = ["apiVersion", "kind", "metadata", "spec", "status"];
    check(has_only(policy, &top), "");
    check(text(policy, &["metadata", "name"]).is_some_and(is_subdomain), "metadata.name");
    let spec = field(policy, "spec").unwrap_or(&Value::Null);
    check(has_only(spec, &["podSelector", "policyTypes", "ingress", "egress"]), "spec");
    check(labels::read(field(spec, "podSelector"), &Map::new()).is_sound, "spec.podSelector");
    check(types_are_sound(spec), "spec.policyTypes");
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let path = format!("spec.{direction}");
        let rules = match field(spec, direction) {
            None => &Vec::new(),
            Some(Value::Array(rules)) => rules,
            Some(_) => {
                check(false, &path);
                continue;
            }
        };
        for (index, rule) in rules.iter().enumerate() {
            let path = format!("{path}[{index}]");
            check(has_only(rule, &[peers, "ports"]), &path);
            check_items(rule, peers, &path, &peer_is_accepted, &mut check);
            check_items(rule, "ports", &path, &ports::is_sound, &mut check);
        }
    }
    found
}

fn check_items(
    rule: &Value,
    name: &str,
    path: &str,
    is_sound: &dyn Fn(&Value) -> bool,
    check: &mut dyn FnMut(bool, &str),
) {
    match field(rule, name) {
        None => {}
        Some(Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                check(is_sound(item), &format!("{path}.{name}[{index}]"));
            }
        }
        Some(_) => check(false, &format!("{path}.{name}")),
    }
}

/// A valid peer may still have a CIDR in a form that only older servers accept.
fn peer_is_accepted(peer: &Value) -> bool {
    let is_strict = |item: &Value| {
        item.as_str().and_then(block::parse).is_some_and(|network| network.is_strict)
    };
    let blocks = field(peer, "ipBlock");
    let networks = blocks
        .into_iter()
        .flat_map(|block| field(block, "cidr").into_iter().chain(super::list(block, &["except"])));
    peer_is_sound(peer) && networks.into_iter().all(is_strict)
}

fn types_are_sound(spec: &Value) -> bool {
    match field(spec, "policyTypes") {
        None => true,
        Some(Value::Array(types)) => {
            let is_known = |item: &Value| matches!(item.as_str(), Some("Ingress" | "Egress"));
            types.len() <= 2 && types.iter().all(is_known)
        }
        Some(_) => false,
    }
}
