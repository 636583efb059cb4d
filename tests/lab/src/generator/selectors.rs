//! Label selectors.

use serde_json::{Map, Value, json};

use super::cluster::{LABELS, NAMESPACES};
use super::{Draw as _, Rng, set};

/// A random label selector.
pub(super) fn selector(rng: &mut Rng) -> Value {
    let mut selector = json!({});
    if rng.chance(20) {
        // The empty selector, in one of its spellings.
        for name in ["matchLabels", "matchExpressions"] {
            let empty = if name == "matchLabels" { json!({}) } else { json!([]) };
            match rng.usize(..4) {
                0 => set(&mut selector, name, Value::Null),
                1 => set(&mut selector, name, empty),
                _ => {}
            }
        }
        return selector;
    }
    let has_labels = rng.chance(60);
    if has_labels {
        let mut labels = Map::new();
        for _ in 0..rng.one_of([1, 1, 2]) {
            let (key, values) = rng.one_of(LABELS);
            labels.insert(key.to_owned(), json!(rng.choice(values)));
        }
        set(&mut selector, "matchLabels", json!(labels));
    }
    if !has_labels || rng.chance(30) {
        let n_expressions = rng.one_of([1, 1, 2]);
        let expressions: Vec<Value> = (0..n_expressions).map(|_| expression(rng)).collect();
        set(&mut selector, "matchExpressions", json!(expressions));
    }
    selector
}

/// A namespace selector: by label or by name.
pub(super) fn namespace_selector(rng: &mut Rng) -> Value {
    const NAME: &str = "kubernetes.io/metadata.name";
    let name = rng.one_of(NAMESPACES);
    match rng.usize(..10) {
        0 | 1 => json!({ "matchLabels": { NAME: name } }),
        2 => {
            json!({ "matchExpressions": [{ "key": NAME, "operator": "NotIn", "values": [name] }] })
        }
        _ => selector(rng),
    }
}

fn expression(rng: &mut Rng) -> Value {
    let (key, values) = rng.one_of(LABELS);
    // A key that no object has satisfies NotIn and DoesNotExist.
    let key = if rng.chance(10) { "nobody-has-this" } else { key };
    let operator = rng.one_of(["In", "NotIn", "Exists", "DoesNotExist"]);
    let mut expression = json!({ "key": key, "operator": operator });
    if matches!(operator, "In" | "NotIn") {
        let n_values = rng.one_of([1, 1, 2, 3]);
        let values: Vec<Option<&&str>> = (0..n_values).map(|_| rng.choice(values)).collect();
        set(&mut expression, "values", json!(values));
    } else {
        super::set_nothing(rng, &mut expression, "values");
    }
    expression
}
