//! How cases shrink: by dropping parts, large ones first.

use std::collections::BTreeSet;

use proptest::bool::weighted;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::case::Case;

/// A strategy for these cases, which shrinks by dropping cases, probes, objects, and fields and items of objects.
pub(super) fn smaller(cases: Vec<Case>) -> impl Strategy<Value = Vec<Case>> {
    let whole = json!(cases);
    let parts = parts(&whole);
    // Each is true at first; proptest shrinks them to false one after the other.
    let is_kept: Vec<_> = parts.iter().map(|_| weighted(1.0)).collect();
    is_kept.prop_map(move |is_kept| {
        let dropped: BTreeSet<&str> =
            parts.iter().zip(is_kept).filter(|(_, kept)| !kept).map(|(part, _)| &**part).collect();
        if dropped.is_empty() {
            return cases.clone();
        }
        serde_json::from_value(without(&whole, "", &dropped)).unwrap_or_default()
    })
}

/// The paths of all parts that can be dropped, large ones first.
fn parts(cases: &Value) -> Vec<String> {
    let mut parts = Vec::new();
    for (path, case) in children(cases, "") {
        for list in ["objects", "probes"] {
            let items = children(&case[list], &format!("{path}/{list}"));
            parts.extend(items.into_iter().map(|(path, _)| path));
        }
        for (path, object) in children(&case["objects"], &format!("{path}/objects")) {
            collect_inner(object, &path, &mut parts);
        }
        parts.push(path);
    }
    parts.sort_by_key(|path| path.matches('/').count());
    parts
}

/// Collects the paths of everything inside a value.
fn collect_inner(value: &Value, path: &str, parts: &mut Vec<String>) {
    for (path, inner) in children(value, path) {
        collect_inner(inner, &path, parts);
        parts.push(path);
    }
}

/// The fields or items of a value, with their paths.
fn children<'v>(value: &'v Value, path: &str) -> Vec<(String, &'v Value)> {
    match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, inner)| (format!("{path}/{name}"), inner)).collect()
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.map(|(index, inner)| (format!("{path}/{index}"), inner)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

/// The value without the parts at these paths.
fn without(value: &Value, path: &str, dropped: &BTreeSet<&str>) -> Value {
    let rest = |name: &str, inner: &Value| {
        let path = format!("{path}/{name}");
        (!dropped.contains(path.as_str())).then(|| without(inner, &path, dropped))
    };
    match value {
        Value::Object(fields) => {
            let fields = fields.iter();
            fields.filter_map(|(name, inner)| Some((name.clone(), rest(name, inner)?))).collect()
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.filter_map(|(index, inner)| rest(&index.to_string(), inner)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}
