//! Invalid policies, which an API server refuses.

use serde_json::{Value, json};

use super::{Draw as _, Rng, set};

/// Makes a random part of a policy invalid.
pub(super) fn spoil(rng: &mut Rng, policy: &mut Value) {
    let mut locations = Vec::new();
    find_locations(policy, "", &mut locations);
    let Some(location) = rng.choice(&locations).cloned() else { return };
    let Some(value) = policy.pointer_mut(&location.pointer) else { return };
    location.kind.spoil(rng, value);
}

/// A part of a policy, and which kind of part it is.
#[derive(Clone, Debug)]
struct Location {
    pointer: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Spec,
    Rule,
    Peer,
    PortItem,
    Selector,
    Block,
}

fn find_locations(value: &Value, pointer: &str, locations: &mut Vec<Location>) {
    let kind_of = |name: &str, inner: &Value| match name {
        "spec" => Some(Kind::Spec),
        "podSelector" | "namespaceSelector" if inner.is_object() => Some(Kind::Selector),
        "ipBlock" if inner.is_object() => Some(Kind::Block),
        _ => None,
    };
    let kind_of_item = |list: &str| match list {
        "ingress" | "egress" => Some(Kind::Rule),
        "from" | "to" => Some(Kind::Peer),
        "ports" => Some(Kind::PortItem),
        _ => None,
    };
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let pointer = format!("{pointer}/{name}");
                locations.extend(
                    kind_of(name, inner).map(|kind| Location { pointer: pointer.clone(), kind }),
                );
                find_locations(inner, &pointer, locations);
            }
        }
        Value::Array(items) => {
            let list = pointer.rsplit('/').next().unwrap_or_default();
            for (index, inner) in items.iter().enumerate() {
                let pointer = format!("{pointer}/{index}");
                if let Some(kind) = kind_of_item(list).filter(|_| inner.is_object()) {
                    locations.push(Location { pointer: pointer.clone(), kind });
                }
                find_locations(inner, &pointer, locations);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl Kind {
    fn spoil(self, rng: &mut Rng, value: &mut Value) {
        match self {
            Self::Spec => spoil_spec(rng, value),
            Self::Rule => match rng.usize(..4) {
                0 => set(value, "port", json!([{ "port": 80 }])),
                1 => set(value, "ports", json!({ "port": 80 })),
                2 => set(value, "from", json!({ "podSelector": {} })),
                _ => set(value, "to", json!("everybody")),
            },
            Self::Peer => spoil_peer(rng, value),
            Self::PortItem => spoil_port(rng, value),
            Self::Selector => spoil_selector(rng, value),
            Self::Block => spoil_block(rng, value),
        }
    }
}

fn spoil_spec(rng: &mut Rng, spec: &mut Value) {
    match rng.usize(..7) {
        0 => set(spec, "policyTypes", json!(["ingress"])),
        1 => set(spec, "policyTypes", json!("Ingress")),
        2 => set(spec, "policyTypes", json!(["Ingress", "Egress", "Ingress"])),
        3 => set(spec, "types", json!(["Egress"])),
        4 => set(spec, "ingress", json!({ "from": [] })),
        5 => set(spec, "podSelector", json!("app=web")),
        _ => set(spec, "egress", json!("all")),
    }
}

fn spoil_peer(rng: &mut Rng, peer: &mut Value) {
    match rng.usize(..4) {
        0 => *peer = json!({}),
        1 => *peer = Value::Null,
        2 => {
            *peer = json!({ "podSelector": {}, "ipBlock": { "cidr": "0.0.0.0/0" } });
        }
        _ => set(peer, "ports", json!([{ "port": 80 }])),
    }
}

fn spoil_port(rng: &mut Rng, item: &mut Value) {
    let wrong = [
        ("port", json!(0)),
        ("port", json!(65536)),
        ("port", json!(-1)),
        ("port", json!(80.5)),
        ("port", json!("80")),
        ("port", json!("Http")),
        ("port", json!("")),
        ("port", json!("name-longer-than-15")),
        ("port", json!(true)),
        ("protocol", json!("tcp")),
        ("protocol", json!("")),
        ("protocol", json!("ICMP")),
        ("protocol", json!(6)),
        ("endPort", json!(70000)),
        ("endPort", json!(0)),
        ("endPort", json!("90")),
        ("targetPort", json!(80)),
    ];
    match rng.usize(..20) {
        0 => *item = json!({ "port": 81, "endPort": 80 }),
        1 => *item = json!({ "port": "http", "endPort": 80 }),
        2 => *item = json!({ "endPort": 80 }),
        _ => {
            if let Some((name, value)) = rng.choice(&wrong) {
                set(item, name, value.clone());
            }
        }
    }
}

fn spoil_selector(rng: &mut Rng, selector: &mut Value) {
    let expression = |key: &str, operator: &str, values: Value| json!([{ "key": key, "operator": operator, "values": values }]);
    let expressions = match rng.usize(..11) {
        0 => expression("app", "Gt", json!(["1"])),
        1 => expression("app", "In", json!([])),
        2 => expression("app", "Exists", json!(["web"])),
        3 => expression("-app", "Exists", json!([])),
        4 => expression("app", "NotIn", json!(["not a value"])),
        5 => json!([{ "key": "app" }]),
        6 => expression("app", "in", json!(["web"])),
        7 => {
            set(selector, "matchLabel", json!({ "app": "web" }));
            return;
        }
        8 => {
            set(selector, "matchLabels", json!({ "app": 1 }));
            return;
        }
        9 => {
            set(selector, "matchLabels", json!({ "bad key": "web" }));
            return;
        }
        _ => json!({ "key": "app" }),
    };
    set(selector, "matchExpressions", expressions);
}

fn spoil_block(rng: &mut Rng, block: &mut Value) {
    let wrong = [
        ("cidr", json!("10.244.0.0")),
        ("cidr", json!("10.244.0.0/33")),
        ("cidr", json!("")),
        ("cidr", json!(null)),
        ("cidr", json!(10)),
        ("cidr", json!("10.244.0/16")),
        ("except", json!(["0.0.0.0/0"])),
        ("except", json!(["203.0.113.77/32"])),
        ("except", json!(["x"])),
        ("except", json!("10.244.0.1/32")),
        ("except", json!([null])),
        ("exceptions", json!([])),
    ];
    if rng.chance(15) {
        let cidr = block.get("cidr").cloned().unwrap_or_default();
        set(block, "except", json!([cidr]));
    } else if let Some((name, value)) = rng.choice(&wrong) {
        set(block, name, value.clone());
    }
}
