//! Server-side apply, without conflicts: fields that a manager applies no longer are removed, and lists are replaced, but conditions
//! are merged by their type.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::contents::Key;

/// What each field manager applied last to an object.
#[derive(Debug, Default)]
pub(super) struct Applied {
    by_manager: BTreeMap<(usize, Key, String), Value>,
}

impl Applied {
    /// The object after a manager has applied `config` to it.
    pub(super) fn apply(
        &mut self,
        resource: usize,
        key: &Key,
        manager: &str,
        before: Option<&Value>,
        config: Value,
    ) -> Value {
        let known = (resource, key.clone(), manager.to_owned());
        let mut object = before.cloned().unwrap_or_else(|| json!({}));
        if before.is_some()
            && let Some(last) = self.by_manager.get(&known)
        {
            remove(&mut object, last, &config);
        }
        merge(&mut object, &config);
        self.by_manager.insert(known, config);
        object
    }
}

/// Removes from an object what was in `last` and is not in `config`.
fn remove(object: &mut Value, last: &Value, config: &Value) {
    let (Value::Object(fields), Value::Object(last)) = (object, last) else { return };
    for (name, last) in last {
        match (fields.get_mut(name), config.get(name)) {
            (Some(_), None) => drop(fields.remove(name)),
            (Some(field), Some(config)) => remove(field, last, config),
            (None, _) => {}
        }
    }
}

fn merge(object: &mut Value, config: &Value) {
    match (object, config) {
        (Value::Object(fields), Value::Object(config)) => merge_fields(fields, config),
        (object, config) => *object = config.clone(),
    }
}

fn merge_fields(fields: &mut Map<String, Value>, config: &Map<String, Value>) {
    for (name, config) in config {
        match (fields.get_mut(name), config) {
            (Some(Value::Array(items)), Value::Array(config)) if name == "conditions" => {
                for condition in config {
                    items.retain(|item| item.get("type") != condition.get("type"));
                    items.push(condition.clone());
                }
            }
            (Some(field), config) => merge(field, config),
            (None, config) => drop(fields.insert(name.clone(), config.clone())),
        }
    }
}
