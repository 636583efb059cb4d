//! Policies as an API server stores them.

use serde_json::{Map, Value, json};

/// A valid policy with the API server's defaults, without the nulls and empty optional lists and maps that it drops.
///
/// Source: networking.k8s.io/v1 defaults: `policyTypes`, `protocol`; a missing `podSelector` is an empty one.
#[must_use]
pub fn stored(policy: &Value) -> Value {
    let mut policy = without_nulls(policy);
    let spec =
        policy.as_object_mut().map(|policy| policy.entry("spec").or_insert_with(|| json!({})));
    let Some(spec) = spec.and_then(Value::as_object_mut) else { return policy };
    spec.entry("podSelector").or_insert_with(|| json!({}));
    let n_egress = spec.get("egress").and_then(Value::as_array).map_or(0, Vec::len);
    let is_set =
        spec.get("policyTypes").and_then(Value::as_array).is_some_and(|types| !types.is_empty());
    if !is_set {
        let types = if n_egress > 0 { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".to_owned(), types);
    }
    for direction in ["ingress", "egress"] {
        let rules = spec.get_mut(direction).and_then(Value::as_array_mut).into_iter().flatten();
        for rule in rules {
            if rule.is_null() {
                *rule = json!({});
            }
            let ports = rule.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
            for port in ports {
                if port.is_null() {
                    *port = json!({});
                }
                if let Some(port) = port.as_object_mut() {
                    port.entry("protocol").or_insert_with(|| json!("TCP"));
                }
            }
        }
    }
    policy
}

/// Drops nulls, empty lists, and empty `matchLabels`, as Go's `omitempty` does; an empty selector stays.
fn without_nulls(value: &Value) -> Value {
    let is_nothing = |name: &str, value: &Value| {
        let is_empty_map = name == "matchLabels" && *value == json!({});
        value.is_null() || *value == Value::Array(Vec::new()) || is_empty_map
    };
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, inner)| !is_nothing(name, inner));
            Value::Object(
                kept.map(|(name, inner)| (name.clone(), without_nulls(inner)))
                    .collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}
