//! What holds for every policy, however broken.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netpol_common::ids::Direction;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::model::convert::object;
use crate::model::{Labels, PortSpec, Severity, Transport};

/// Values that are valid nowhere in a spec.
const JUNK: [&str; 5] = [r#"{ "?": true }"#, r#""???""#, "-7.5", "true", "[[]]"];

fn optional(
    name: &'static str,
    value: impl Strategy<Value = Value> + 'static,
) -> BoxedStrategy<Value> {
    let absent = Just(json!({}));
    prop_oneof![1 => absent, 3 => value.prop_map(move |value| json!({ name: value }))].boxed()
}

fn merged(parts: Vec<BoxedStrategy<Value>>) -> BoxedStrategy<Value> {
    let merge = |parts: Vec<Value>| {
        let entries = parts.iter().flat_map(|part| part.as_object().unwrap().clone());
        Value::Object(entries.collect())
    };
    parts.prop_map(merge).boxed()
}

fn list(item: BoxedStrategy<Value>, sizes: std::ops::Range<usize>) -> BoxedStrategy<Value> {
    prop::collection::vec(item, sizes).prop_map(Value::Array).boxed()
}

fn any_selector() -> BoxedStrategy<Value> {
    let labels =
        prop::collection::btree_map(select(vec!["a", "b"]), select(vec!["x", "y", ""]), 0..3)
            .prop_map(|labels| json!(labels));
    let values = prop::collection::vec(select(vec!["x", "y", ""]), 1..3);
    let expression = (select(vec!["In", "NotIn", "Exists", "DoesNotExist"]), values).prop_map(
        |(operator, values)| {
            let values = if operator.ends_with("In") { values } else { Vec::new() };
            json!({ "key": "a", "operator": operator, "values": values })
        },
    );
    merged(vec![
        optional("matchLabels", labels),
        optional("matchExpressions", list(expression.boxed(), 0..2)),
    ])
}

fn any_rule(peers: &'static str) -> BoxedStrategy<Value> {
    let block = prop_oneof![
        Just(json!({ "cidr": "10.0.0.0/8" })),
        Just(json!({ "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/16"] })),
        Just(json!({ "cidr": "::/0", "except": [] })),
    ];
    let peer = prop_oneof![
        block.prop_map(|block| json!({ "ipBlock": block })),
        any_selector().prop_map(|pods| json!({ "podSelector": pods })),
        any_selector().prop_map(|namespaces| json!({ "namespaceSelector": namespaces })),
        (any_selector(), any_selector()).prop_map(
            |(namespaces, pods)| json!({ "namespaceSelector": namespaces, "podSelector": pods })
        ),
    ];
    let port = prop_oneof![
        Just(json!({})),
        Just(json!({ "protocol": "UDP" })),
        Just(json!({ "port": 80 })),
        Just(json!({ "port": "http" })),
        Just(json!({ "protocol": "TCP", "port": 80, "endPort": 90 })),
    ];
    merged(vec![
        optional(peers, list(peer.boxed(), 0..3)),
        optional("ports", list(port.boxed(), 0..3)),
    ])
}

/// Specs that the API server accepts.
fn any_spec() -> BoxedStrategy<Value> {
    let types = prop_oneof![
        Just(json!([])),
        Just(json!(["Ingress"])),
        Just(json!(["Egress"])),
        Just(json!(["Egress", "Ingress"])),
    ];
    merged(vec![
        optional("podSelector", any_selector()),
        optional("policyTypes", types),
        optional("ingress", list(any_rule("from"), 0..3)),
        optional("egress", list(any_rule("to"), 0..3)),
    ])
}

/// Any JSON, with keys and strings that mean something to a policy.
fn any_json() -> BoxedStrategy<Value> {
    let words =
        vec!["from", "to", "ports", "cidr", "port", "podSelector", "Ingress", "10.0.0.0/8", ""];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(words.clone()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, move |inner| {
        let key = prop_oneof![select(words.clone()).prop_map(str::to_owned), any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
    .boxed()
}

/// Pointers to every value below a value, and to itself.
fn pointers(value: &Value, prefix: &str, found: &mut Vec<String>) {
    found.push(prefix.to_owned());
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointers(item, &format!("{prefix}/{index}"), found);
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                let key = key.replace('~', "~0").replace('/', "~1");
                pointers(field, &format!("{prefix}/{key}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A place below the root of `value`.
fn place<'v>(value: &'v mut Value, root: &str, index: Index) -> &'v mut Value {
    let mut found = Vec::new();
    pointers(value.pointer(root).unwrap(), root, &mut found);
    value.pointer_mut(index.get::<String>(&found)).unwrap()
}

fn as_object(spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": "p", "namespace": "n", "labels": { "a": "b" }, "annotations": {} },
        "spec": spec,
    })
}

fn convert(object: &Value) -> Policy {
    policy(object).0.unwrap()
}

fn samples_of_labels() -> Vec<Labels> {
    let values = [None, Some("x"), Some("y"), Some("")];
    let pair = |key: &str, value: Option<&str>| value.map(|value| (key.into(), value.into()));
    let with = |a: Option<&str>, b| pair("a", a).into_iter().chain(pair("b", b)).collect();
    values.iter().flat_map(|a| values.iter().map(move |b| with(*a, *b))).collect()
}

/// Everything of a sample that a policy allows in a direction in which it isolates.
fn allowed(policy: &Policy, direction: Direction) -> BTreeSet<String> {
    let addresses: [IpAddr; 4] =
        ["10.0.0.1", "10.1.0.1", "11.0.0.1", "fd00::1"].map(|text| text.parse().unwrap());
    let samples = samples_of_labels();
    let mut allowed = BTreeSet::new();
    for rule in policy.rules(direction) {
        let ports: Vec<String> = match &rule.ports {
            Ports::All => Transport::ALL.iter().map(ToString::to_string).collect(),
            Ports::AnyOf(ports) => ports.iter().flat_map(sample_ports).collect(),
        };
        let mut peers = Vec::new();
        match &rule.peers {
            Peers::All => peers.push("*".to_owned()),
            Peers::AnyOf(list) => {
                for peer in list {
                    match peer {
                        Peer::IpBlock(block) => peers.extend(
                            addresses
                                .iter()
                                .filter(|a| block.contains(**a))
                                .map(ToString::to_string),
                        ),
                        Peer::Nodes(_) => panic!("a NetworkPolicy has no nodes as peers"),
                        Peer::Pods { namespaces, pods } => {
                            for (n, namespace) in samples.iter().enumerate() {
                                let is_there = match namespaces {
                                    NamespaceMatch::Own => n == 0,
                                    NamespaceMatch::Selected(selector) => {
                                        selector.matches(namespace)
                                    }
                                };
                                let pods =
                                    samples.iter().enumerate().filter(|(_, p)| pods.matches(p));
                                peers.extend(
                                    pods.filter(|_| is_there).map(|(p, _)| format!("{n}/{p}")),
                                );
                            }
                        }
                    }
                }
            }
        }
        allowed.extend(peers.iter().flat_map(|a| ports.iter().map(move |b| format!("{a} {b}"))));
    }
    allowed
}

fn sample_ports(port: &crate::model::PortMatch) -> Vec<String> {
    let transport = port.transport;
    match &port.ports {
        PortSpec::Any => vec![transport.to_string()],
        PortSpec::Named(name) => vec![format!("{transport}/{name}")],
        PortSpec::Range(range) => [1, 80, 85, 90]
            .iter()
            .filter(|p| range.contains(**p))
            .map(|p| format!("{transport}/{p}"))
            .collect(),
    }
}

/// Everything of a sample that a policy adds to what other policies allow.
fn in_force(policy: &Policy, direction: Direction) -> BTreeSet<String> {
    if policy.policy_types.contains(direction) {
        allowed(policy, direction)
    } else {
        BTreeSet::new()
    }
}

fn prop_never_opens(before: &Policy, after: &Policy) -> Result<(), TestCaseError> {
    let mut selects_more = false;
    for labels in samples_of_labels() {
        let (was, is) = (before.pod_selector.matches(&labels), after.pod_selector.matches(&labels));
        prop_assert!(is || !was, "{labels:?} was selected");
        selects_more |= is && !was;
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        if before.policy_types.contains(direction) {
            prop_assert!(after.policy_types.contains(direction), "isolated for {direction:?}");
        }
        let is = in_force(after, direction);
        // Pods that it did not mean may be isolated by others.
        let was = if selects_more { BTreeSet::new() } else { in_force(before, direction) };
        // "*" allows what single peers do, and a protocol what its ports do.
        let new = is.iter().filter(|one| !was.contains(*one)).filter(|one| {
            let port = one.split_once(' ').unwrap().1;
            let transport = port.split('/').next().unwrap();
            !was.contains(&format!("* {port}")) && !was.contains(&format!("* {transport}"))
        });
        let new: Vec<_> = new.collect();
        prop_assert!(new.is_empty(), "newly allowed: {new:?}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_valid_policy_has_no_findings(spec in any_spec()) {
        let (policy, found) = policy(&as_object(&spec));
        prop_assert!(policy.is_some() && found.is_empty(), "{found:?}");
    }

    #[test]
    fn arbitrary_json_never_panics_and_a_named_policy_is_never_lost(
        spec in any_spec(), index: Index, json in any_json(),
    ) {
        let mut mutated = as_object(&spec);
        *place(&mut mutated, "", index) = json;
        let (policy, found) = policy(&mutated);
        let name = mutated.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let namespace = mutated.pointer("/metadata/namespace");
        let is_misplaced = namespace.is_some_and(|value| value.is_array() || value.is_object());
        prop_assert!(policy.is_some() || name.is_empty() || is_misplaced);
        for diagnostic in found {
            prop_assert!(!diagnostic.message.is_empty());
        }
        object(&mutated);
    }

    #[test]
    fn junk_in_place_of_anything_in_the_spec_never_opens_the_policy(
        spec in any_spec(), index: Index, junk in select(&JUNK),
    ) {
        let object = as_object(&spec);
        let mut mutated = object.clone();
        *place(&mut mutated, "/spec", index) = serde_json::from_str(junk).unwrap();
        let (after, found) = policy(&mutated);
        prop_assert!(found.iter().any(|found| found.severity() == Severity::Error), "{mutated}");
        // Types that are not understood may be both, so that all rules are meant.
        let types = "/spec/policyTypes";
        let mut meant = object.clone();
        if mutated.pointer(types) != object.pointer(types) {
            meant["spec"]["policyTypes"] = json!(["Ingress", "Egress"]);
        }
        prop_never_opens(&convert(&meant), &after.unwrap())?;
    }

    #[test]
    fn an_unknown_field_anywhere_in_the_spec_never_opens_the_policy(
        spec in any_spec(), index: Index, junk in select(&JUNK),
    ) {
        let object = as_object(&spec);
        let mut mutated = object.clone();
        if let Value::Object(fields) = place(&mut mutated, "/spec", index) {
            fields.insert("?".to_owned(), serde_json::from_str(junk).unwrap());
            let (after, found) = policy(&mutated);
            prop_assert!(found.iter().any(|found| found.severity() == Severity::Error), "{mutated}");
            prop_never_opens(&convert(&object), &after.unwrap())?;
        }
    }

    #[test]
    fn a_converted_policy_written_out_again_converts_to_itself(spec in any_spec()) {
        let once = convert(&as_object(&spec));
        let twice = convert(&as_object(&write_spec(&once)));
        prop_assert_eq!(once, twice);
    }
}

/// The policy as an API object, everything explicit.
fn write_spec(policy: &Policy) -> Value {
    let types = [("Ingress", Direction::Ingress), ("Egress", Direction::Egress)];
    let types = types.iter().filter(|(_, direction)| policy.policy_types.contains(*direction));
    json!({
        "podSelector": write_selector(&policy.pod_selector),
        "policyTypes": types.map(|(name, _)| *name).collect::<Vec<_>>(),
        "ingress": policy.ingress.iter().map(|rule| write_rule(rule, "from")).collect::<Vec<_>>(),
        "egress": policy.egress.iter().map(|rule| write_rule(rule, "to")).collect::<Vec<_>>(),
    })
}

fn write_selector(selector: &Selector) -> Value {
    let expressions = selector.requirements().map(|requirement| match requirement {
        Requirement::In(key, values) => json!({ "key": key, "operator": "In", "values": values }),
        Requirement::NotIn(key, values) => {
            json!({ "key": key, "operator": "NotIn", "values": values })
        }
        Requirement::Exists(key) => json!({ "key": key, "operator": "Exists" }),
        Requirement::DoesNotExist(key) => json!({ "key": key, "operator": "DoesNotExist" }),
    });
    json!({ "matchExpressions": expressions.collect::<Vec<_>>() })
}

fn write_rule(rule: &Rule, field: &str) -> Value {
    let peers: Vec<Value> = match &rule.peers {
        Peers::All => Vec::new(),
        Peers::AnyOf(peers) => peers.iter().map(write_peer).collect(),
    };
    let ports: Vec<Value> = match &rule.ports {
        Ports::All => Vec::new(),
        Ports::AnyOf(ports) => ports
            .iter()
            .map(|port| match &port.ports {
                PortSpec::Any => json!({ "protocol": port.transport }),
                PortSpec::Named(name) => json!({ "protocol": port.transport, "port": *name.0 }),
                PortSpec::Range(range) => json!({
                    "protocol": port.transport, "port": range.first(), "endPort": range.last(),
                }),
            })
            .collect(),
    };
    json!({ field: peers, "ports": ports })
}

fn write_peer(peer: &Peer) -> Value {
    match peer {
        Peer::Pods { namespaces: NamespaceMatch::Own, pods } => {
            json!({ "podSelector": write_selector(pods) })
        }
        Peer::Pods { namespaces: NamespaceMatch::Selected(namespaces), pods } => json!({
            "namespaceSelector": write_selector(namespaces), "podSelector": write_selector(pods),
        }),
        Peer::IpBlock(block) => {
            json!({ "ipBlock": { "cidr": block.cidr, "except": block.except } })
        }
        Peer::Nodes(_) => panic!("a NetworkPolicy has no nodes as peers"),
    }
}
