//! `ClusterNetworkPolicy` objects.

use serde_json::{Value, json};

use super::ports::{self, PORT_NAMES};
use super::{Cluster, Draw as _, Rng, blocks, selectors, set, set_nothing};

/// Priorities; no two policies of a tier share one, because the API leaves their order open.
const PRIORITIES: [u32; 7] = [0, 1, 10, 50, 500, 999, 1000];

/// A random policy. Its priority is that of no other policy of its tier.
pub(super) fn cluster_policy(rng: &mut Rng, cluster: &Cluster, name: &str) -> Value {
    let tier = rng.one_of(["Admin", "Admin", "Baseline"]);
    let mut spec = json!({
        "tier": tier, "priority": free_priority(rng, cluster, tier, name), "subject": subject(rng),
    });
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        if rng.chance(30) {
            set_nothing(rng, &mut spec, direction);
            continue;
        }
        let n_rules = rng.one_of([1, 2, 2, 3, 4, 6]);
        let rules: Vec<Value> = (0..n_rules).map(|_| rule(rng, cluster, peers)).collect();
        set(&mut spec, direction, json!(rules));
    }
    let mut metadata = json!({ "name": name });
    if rng.chance(4) {
        let mode = rng.one_of(["audit", "audit", "enforce"]);
        set(&mut metadata, "annotations", json!({ "netpol/mode": mode }));
    }
    let version = rng.one_of(["v1alpha2", "v1alpha2", "v1beta1"]);
    json!({
        "apiVersion": format!("policy.networking.k8s.io/{version}"), "kind": "ClusterNetworkPolicy",
        "metadata": metadata, "spec": spec,
    })
}

/// Changes the priority of a policy, the order of its rules, or the action of one.
pub(super) fn alter(rng: &mut Rng, cluster: &Cluster, policy: &mut Value) {
    let text = |pointer: &str| {
        policy.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (name, tier) = (text("/metadata/name"), text("/spec/tier"));
    let direction = rng.one_of(["/spec/ingress", "/spec/egress"]);
    let rules = policy.pointer_mut(direction).and_then(Value::as_array_mut);
    match (rng.usize(..3), rules) {
        (0, Some(rules)) if rules.len() > 1 => rng.shuffle(rules),
        (1, Some(rules)) => {
            if let Some(rule) = rng.choice(rules) {
                set(rule, "action", json!(action(rng)));
            }
        }
        _ => {
            let priority = free_priority(rng, cluster, &tier, &name);
            if let Some(spec) = policy.pointer_mut("/spec") {
                set(spec, "priority", json!(priority));
            }
        }
    }
}

fn free_priority(rng: &mut Rng, cluster: &Cluster, tier: &str, name: &str) -> u32 {
    let is_taken = |priority: &u32| {
        cluster.cluster_policies.iter().any(|other| {
            other.pointer("/metadata/name") != Some(&json!(name))
                && other.pointer("/spec/tier") == Some(&json!(tier))
                && other.pointer("/spec/priority") == Some(&json!(priority))
        })
    };
    let free: Vec<u32> = PRIORITIES.into_iter().filter(|priority| !is_taken(priority)).collect();
    rng.choice(&free).copied().unwrap_or(777)
}

fn action(rng: &mut Rng) -> &'static str {
    rng.one_of(["Accept", "Accept", "Deny", "Deny", "Pass"])
}

fn subject(rng: &mut Rng) -> Value {
    match rng.usize(..6) {
        0 | 1 => json!({ "namespaces": {} }),
        2 => json!({ "namespaces": selectors::namespace_selector(rng), "pods": null }),
        _ => json!({ "pods": both_selectors(rng) }),
    }
}

fn both_selectors(rng: &mut Rng) -> Value {
    let namespaces = if rng.chance(50) { json!({}) } else { selectors::namespace_selector(rng) };
    json!({ "namespaceSelector": namespaces, "podSelector": selectors::selector(rng) })
}

fn rule(rng: &mut Rng, cluster: &Cluster, peers_field: &str) -> Value {
    let mut rule = json!({ "action": action(rng) });
    if rng.chance(50) {
        set(&mut rule, "name", json!(rng.one_of(["r", "allow all", "deny: everything else"])));
    }
    let n_peers = rng.one_of([1, 1, 1, 2, 3]);
    let peers: Vec<Value> = (0..n_peers).map(|_| peer(rng, cluster, peers_field)).collect();
    let is_pod = |peer: &Value| peer.get("networks").is_none() && peer.get("nodes").is_none();
    // Where other peers than pods are, a port name is refused by one channel of the CRD and stored by the other.
    let may_have_names = peers.iter().all(is_pod) || rng.chance(15);
    set(&mut rule, peers_field, json!(peers));
    match rng.usize(..10) {
        0..=3 => {}
        4 => set(&mut rule, "protocols", Value::Null),
        _ => {
            let n_protocols = rng.one_of([1, 1, 2, 3]);
            let item = |rng: &mut Rng| {
                if may_have_names && rng.chance(30) {
                    json!({ "destinationNamedPort": rng.one_of(PORT_NAMES) })
                } else {
                    protocol(rng)
                }
            };
            let protocols: Vec<Value> = (0..n_protocols).map(|_| item(rng)).collect();
            set(&mut rule, "protocols", json!(protocols));
        }
    }
    if rng.chance(4) {
        obscure(rng, &mut rule, peers_field);
    }
    rule
}

fn peer(rng: &mut Rng, cluster: &Cluster, peers_field: &str) -> Value {
    let last = if peers_field == "to" { 10 } else { 5 };
    let mut peer = match rng.usize(..last) {
        0 => json!({ "namespaces": selectors::namespace_selector(rng) }),
        1 => json!({ "namespaces": {} }),
        2..=4 => json!({ "pods": both_selectors(rng) }),
        5 => json!({ "nodes": selectors::selector(rng) }),
        _ => {
            let n_networks = rng.one_of([1, 1, 2, 3]);
            let networks: Vec<String> =
                (0..n_networks).map(|_| blocks::network(rng, cluster)).collect();
            json!({ "networks": networks })
        }
    };
    for name in ["namespaces", "pods", "networks"] {
        if rng.chance(3) && peer.get(name).is_none() {
            set(&mut peer, name, Value::Null);
        }
    }
    peer
}

fn protocol(rng: &mut Rng) -> Value {
    let name = rng.one_of(["tcp", "tcp", "udp", "sctp"]);
    let (one, other) = (ports::number(rng), ports::number(rng));
    match rng.usize(..12) {
        0 => json!({ name: {} }),
        1 => json!({ name: { "destinationPort": { "range": { "start": 1, "end": 65535 } } } }),
        2..=6 if one != other => {
            let (start, end) = (one.min(other), one.max(other));
            json!({ name: { "destinationPort": { "range": { "start": start, "end": end } } } })
        }
        _ => json!({ name: { "destinationPort": { "number": one } } }),
    }
}

/// Puts something into a rule that this version does not know, or takes out what every version has.
fn obscure(rng: &mut Rng, rule: &mut Value, peers_field: &str) {
    let peers = [
        json!({}),
        json!({ "serviceAccounts": {} }),
        json!({ "namespaces": {}, "networks": ["0.0.0.0/0"] }),
        json!({ "namespaces": { "matchExpressions": [{ "key": "app", "operator": "Like", "values": ["w"] }] } }),
        json!({ "pods": { "podSelector": {} } }),
        json!({ "networks": [] }),
        json!({ "networks": ["10.244.0.0"] }),
        json!({ "domainNames": ["*.example.com"] }),
    ];
    let protocols = [
        json!({}),
        json!({ "icmp": { "type": 8 } }),
        json!({ "tcp": { "flags": ["syn"] } }),
        json!({ "tcp": { "destinationPort": {} } }),
        json!({ "udp": { "destinationPort": { "range": { "start": 80, "end": 80 } } } }),
        json!({ "tcp": {}, "udp": {} }),
        json!({ "destinationNamedPort": "" }),
    ];
    let (list, item) = match rng.usize(..8) {
        0 => return set(rule, "protocols", json!([])),
        1 => return set(rule, peers_field, json!([])),
        2 => return set(rule, "ports", json!([])),
        3 | 4 => ("protocols", rng.choice(&protocols).cloned()),
        _ => (peers_field, rng.choice(&peers).cloned()),
    };
    let kept = rule.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
    set(rule, list, json!(kept.into_iter().chain(item).collect::<Vec<_>>()));
}
