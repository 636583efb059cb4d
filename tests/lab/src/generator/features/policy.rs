//! Features of policies.

use serde_json::Value;

use super::{Features, items, text};
use crate::oracle;

pub(super) fn of_policy(policy: &Value, features: &mut Features) {
    if !oracle::problems(policy).is_empty() {
        features.insert("policy: refused by the API server");
    }
    if policy.pointer("/metadata/annotations/netpol~1mode") == Some(&"audit".into()) {
        features.insert("policy: audited");
    }
    match policy.pointer("/spec/podSelector") {
        None | Some(Value::Null) => {
            features.insert("policy: podSelector absent or null");
        }
        Some(selector) => {
            let is_empty = of_selector(selector, features);
            features.insert(if is_empty {
                "policy: podSelector empty"
            } else {
                "policy: podSelector with conditions"
            });
        }
    }
    let types: Vec<&str> =
        items(policy, "/spec/policyTypes").iter().filter_map(Value::as_str).collect();
    features.insert(match types.as_slice() {
        [] => "policyTypes: absent, null or empty",
        ["Ingress"] => "policyTypes: Ingress",
        ["Egress"] => "policyTypes: Egress",
        [one, other] if one == other => "policyTypes: repeated",
        _ => "policyTypes: both",
    });
    let directions = [("ingress", "Ingress", "/from"), ("egress", "Egress", "/to")];
    for (field, policy_type, peers) in directions {
        let rules = items(policy, &format!("/spec/{field}"));
        features.insert(match rules.len() {
            0 => "rules: absent, null or empty",
            1 => "rules: one",
            _ => "rules: several",
        });
        if !rules.is_empty() && !types.is_empty() && !types.contains(&policy_type) {
            features.insert("rules: for a type that is not listed");
        }
        for rule in rules {
            of_rule(rule, peers, features);
        }
    }
}

fn of_rule(rule: &Value, peers_pointer: &str, features: &mut Features) {
    if rule.as_object().is_none_or(serde_json::Map::is_empty) {
        features.insert("rule: empty or null");
    }
    let peers = items(rule, peers_pointer);
    let n_blocks = peers.iter().filter(|peer| peer.pointer("/ipBlock/cidr").is_some()).count();
    features.extend(peers.is_empty().then_some("peers: absent, null or empty"));
    features.extend((peers.len() > 1).then_some("peers: several"));
    features.extend((n_blocks > 1).then_some("block: several in one rule"));
    for peer in peers {
        let selectors = [peer.get("podSelector"), peer.get("namespaceSelector")];
        let [pods, namespaces] = selectors.map(|selector| selector.filter(|s| !s.is_null()));
        for selector in [pods, namespaces].into_iter().flatten() {
            of_selector(selector, features);
        }
        if namespaces.is_some_and(|s| s.to_string().contains("kubernetes.io/metadata.name")) {
            features.insert("selector: namespace by name");
        }
        features.extend(match (pods, namespaces) {
            (Some(_), None) => Some("peer: podSelector"),
            (None, Some(_)) => Some("peer: namespaceSelector"),
            (Some(_), Some(_)) => Some("peer: both selectors"),
            (None, None) => None,
        });
        if let Some(block) = peer.get("ipBlock").filter(|block| block.is_object()) {
            of_block(block, features);
        }
    }
    let ports = items(rule, "/ports");
    features.extend(ports.is_empty().then_some("ports: absent, null or empty"));
    features.extend((ports.len() > 1).then_some("ports: several"));
    for port in ports {
        of_port(port, features);
    }
}

/// Returns whether the selector is empty.
fn of_selector(selector: &Value, features: &mut Features) -> bool {
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let labels = labels.filter(|labels| !labels.is_empty());
    let expressions = items(selector, "/matchExpressions");
    if labels.is_some() {
        features.insert("selector: matchLabels");
    }
    if labels.is_some_and(|labels| labels.values().any(|value| value == "")) {
        features.insert("selector: empty value");
    }
    for expression in expressions {
        features.extend(match text(expression, "/operator") {
            "In" => Some("selector: In"),
            "NotIn" => Some("selector: NotIn"),
            "Exists" => Some("selector: Exists"),
            "DoesNotExist" => Some("selector: DoesNotExist"),
            _ => None,
        });
    }
    match (labels.is_some(), expressions.is_empty()) {
        (true, false) => features.insert("selector: labels and expressions"),
        (false, true) => features.insert("selector: empty"),
        _ => false,
    };
    labels.is_none() && expressions.is_empty()
}

fn of_block(block: &Value, features: &mut Features) {
    features.insert("peer: ipBlock");
    let except = items(block, "/except");
    features.extend((!except.is_empty()).then_some("block: except"));
    features.extend((except.len() > 1).then_some("block: several exceptions"));
    let cidr = text(block, "/cidr");
    features.insert(if cidr.contains(':') { "block: IPv6" } else { "block: IPv4" });
    for text in except.iter().filter_map(Value::as_str).chain([cidr]) {
        let Some((address, length)) = text.split_once('/') else { continue };
        let is_mapped = address.starts_with("::ffff:") && address.contains('.');
        features.extend(is_mapped.then_some("block: IPv4-mapped"));
        features.extend(match (length, address.contains(':')) {
            ("0", _) => Some("block: of prefix length 0"),
            ("32", false) | ("128", true) => Some("block: of one address"),
            _ => None,
        });
        let has_zeros = |octet: &str| octet.len() > 1 && octet.starts_with('0');
        if !address.contains(':') && address.split('.').any(has_zeros) {
            features.insert("block: leading zeros");
        } else if !is_mapped && oracle::has_host_bits(text) {
            features.insert("block: host bits");
        }
    }
}

fn of_port(port: &Value, features: &mut Features) {
    let number = port.get("port").and_then(Value::as_u64);
    let end = port.get("endPort").and_then(Value::as_u64);
    features.insert(match (port.get("port"), number, end) {
        (_, Some(1), Some(65535)) => "port: range of all",
        (_, Some(first), Some(last)) if first == last => "port: range of one",
        (_, Some(_), Some(_)) => "port: range",
        (_, Some(_), None) => "port: number",
        (Some(Value::String(_)), _, _) => "port: name",
        _ => "port: empty or null",
    });
    features.insert(match text(port, "/protocol") {
        "TCP" => "protocol: TCP",
        "UDP" => "protocol: UDP",
        "SCTP" => "protocol: SCTP",
        _ => "protocol: absent or null",
    });
}
