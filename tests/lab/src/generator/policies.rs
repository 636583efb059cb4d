//! `NetworkPolicy` objects.

use serde_json::{Value, json};

use super::{Cluster, Draw as _, Rng, blocks, ports, selectors, set, set_nothing, spoil};

/// A random policy.
pub fn policy(rng: &mut Rng, cluster: &Cluster, namespace: &str, name: &str) -> Value {
    let mut spec = json!({});
    match rng.usize(..12) {
        0 => {}
        1 => set(&mut spec, "podSelector", Value::Null),
        2..=4 => set(&mut spec, "podSelector", json!({})),
        _ => set(&mut spec, "podSelector", selectors::selector(rng)),
    }
    match rng.usize(..12) {
        0..=3 => set_nothing(rng, &mut spec, "policyTypes"),
        4 | 5 => set(&mut spec, "policyTypes", json!(["Ingress"])),
        6 | 7 => set(&mut spec, "policyTypes", json!(["Egress"])),
        8 => set(&mut spec, "policyTypes", json!(["Egress", "Ingress"])),
        9 => set(&mut spec, "policyTypes", json!(["Ingress", "Ingress"])),
        _ => set(&mut spec, "policyTypes", json!(["Ingress", "Egress"])),
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        if rng.chance(35) {
            set_nothing(rng, &mut spec, direction);
            continue;
        }
        let n_rules = rng.one_of([1, 1, 1, 2, 2, 3]);
        let rules: Vec<Value> = (0..n_rules).map(|_| rule(rng, cluster, peers)).collect();
        set(&mut spec, direction, json!(rules));
    }
    let mut metadata = json!({ "name": name, "namespace": namespace });
    if rng.chance(3) {
        let mode = rng.one_of(["audit", "audit", "enforce"]);
        set(&mut metadata, "annotations", json!({ "netpol/mode": mode }));
    }
    let mut policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": metadata, "spec": spec,
    });
    if rng.chance(4) {
        spoil::spoil(rng, &mut policy);
    }
    policy
}

fn rule(rng: &mut Rng, cluster: &Cluster, peers_field: &str) -> Value {
    let mut rule = json!({});
    if rng.chance(4) {
        return if rng.chance(50) { Value::Null } else { rule };
    }
    if rng.chance(20) {
        set_nothing(rng, &mut rule, peers_field);
    } else {
        let n_peers = rng.one_of([1, 1, 2, 3]);
        let peers: Vec<Value> = (0..n_peers).map(|_| peer(rng, cluster)).collect();
        set(&mut rule, peers_field, json!(peers));
    }
    if rng.chance(25) {
        set_nothing(rng, &mut rule, "ports");
    } else {
        let n_ports = rng.one_of([1, 1, 2, 3]);
        let ports: Vec<Value> = (0..n_ports).map(|_| ports::item(rng)).collect();
        set(&mut rule, "ports", json!(ports));
    }
    rule
}

fn peer(rng: &mut Rng, cluster: &Cluster) -> Value {
    let mut peer = match rng.usize(..10) {
        0..=2 => json!({ "podSelector": selectors::selector(rng) }),
        3 => json!({ "namespaceSelector": selectors::namespace_selector(rng) }),
        4 | 5 => json!({
            "podSelector": selectors::selector(rng),
            "namespaceSelector": selectors::namespace_selector(rng),
        }),
        _ => json!({ "ipBlock": blocks::block(rng, cluster) }),
    };
    // An explicit null is an absent field.
    for name in ["podSelector", "namespaceSelector", "ipBlock"] {
        if rng.chance(4) && peer.get(name).is_none() {
            set(&mut peer, name, Value::Null);
        }
    }
    peer
}
