//! Label selectors.

use serde_json::{Map, Value};

use super::{field, has_only};

/// The result of matching a selector with labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// All valid conditions hold; true without conditions (item 19).
    pub(super) holds: bool,
    /// All conditions are valid.
    pub(super) is_sound: bool,
}

/// Matches a selector with labels. `None` is an absent selector, which matches like an empty one.
pub(super) fn read(selector: Option<&Value>, labels: &Map<String, Value>) -> Reading {
    let mut reading = Reading { holds: true, is_sound: true };
    let Some(selector) = selector else { return reading };
    reading.is_sound = has_only(selector, &["matchLabels", "matchExpressions"]);
    match field(selector, "matchLabels") {
        None => {}
        Some(Value::Object(pairs)) => {
            for (key, value) in pairs {
                reading.add(is_key(key).then_some(()).and_then(|()| {
                    // A null value of a Go map of strings is the empty text.
                    let wanted = if value.is_null() { Some("") } else { value.as_str() };
                    let wanted = wanted.filter(|wanted| is_value(wanted))?;
                    Some(label(labels, key) == Some(wanted))
                }));
            }
        }
        Some(_) => reading.is_sound = false,
    }
    match field(selector, "matchExpressions") {
        None => {}
        Some(Value::Array(items)) => {
            for item in items {
                reading.add(expression(item, labels));
            }
        }
        Some(_) => reading.is_sound = false,
    }
    reading
}

impl Reading {
    /// Adds a condition: `None` if it is invalid.
    fn add(&mut self, condition: Option<bool>) {
        match condition {
            None => self.is_sound = false,
            Some(holds) => self.holds &= holds,
        }
    }
}

fn expression(item: &Value, labels: &Map<String, Value>) -> Option<bool> {
    if !has_only(item, &["key", "operator", "values"]) {
        return None;
    }
    let key = field(item, "key")?.as_str().filter(|key| is_key(key))?;
    let values: Vec<&str> = match field(item, "values") {
        None => Vec::new(),
        Some(list) => {
            // A null item of a Go list of strings is the empty text.
            let items = list.as_array()?.iter();
            items
                .map(|value| if value.is_null() { Some("") } else { value.as_str() })
                .collect::<Option<_>>()?
        }
    };
    if !values.iter().all(|value| is_value(value)) {
        return None;
    }
    let found = label(labels, key);
    match field(item, "operator")?.as_str()? {
        "In" if !values.is_empty() => Some(found.is_some_and(|value| values.contains(&value))),
        "NotIn" if !values.is_empty() => Some(found.is_none_or(|value| !values.contains(&value))),
        "Exists" if values.is_empty() => Some(found.is_some()),
        "DoesNotExist" if values.is_empty() => Some(found.is_none()),
        _ => None,
    }
}

fn label<'l>(labels: &'l Map<String, Value>, key: &str) -> Option<&'l str> {
    labels.get(key).map(|value| value.as_str().unwrap_or_default())
}

/// `metadata.labels`.
pub(super) fn of(object: &Value) -> Map<String, Value> {
    let labels = field(object, "metadata").and_then(|metadata| field(metadata, "labels"));
    labels.and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Whether this is a label key: a name with an optional domain prefix.
pub(super) fn is_key(key: &str) -> bool {
    let (domain, name) =
        key.rsplit_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    !name.is_empty() && is_value(name) && domain.is_none_or(is_subdomain)
}

/// Whether this is a label value: up to 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit.
pub(super) fn is_value(value: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    value.is_empty()
        || (value.len() <= 63
            && value.chars().all(is_inner)
            && is_edge(value.chars().next())
            && is_edge(value.chars().next_back()))
}

/// Whether this is a DNS subdomain: up to 253 characters, dots between labels of lower-case letters, digits and inner `-` (item 7).
pub(super) fn is_subdomain(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        !label.is_empty()
            && label.chars().all(|c| is_plain(c) || c == '-')
            && label.starts_with(is_plain)
            && label.ends_with(is_plain)
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(selector: &Value, labels: &Value, expected: [bool; 2]) {
        let Reading { holds, is_sound } = read(Some(selector), labels.as_object().unwrap());
        assert_eq!([holds, is_sound], expected, "{selector} {labels}");
    }

    #[test]
    fn selectors_follow_the_api() {
        let expression = |operator: &str, values: Value| json!({ "matchExpressions": [{ "key": "a", "operator": operator, "values": values }] });
        check(&json!({}), &json!({}), [true, true]);
        check(&json!({ "matchLabels": { "a": "1" } }), &json!({ "a": "1" }), [true, true]);
        check(&json!({ "matchLabels": { "a": "" } }), &json!({}), [false, true]);
        check(&json!({ "matchLabels": { "a": "" } }), &json!({ "a": "" }), [true, true]);
        check(&expression("In", json!(["1", "2"])), &json!({ "a": "2" }), [true, true]);
        check(&expression("In", json!(["1"])), &json!({}), [false, true]);
        check(&expression("NotIn", json!(["1"])), &json!({}), [true, true]);
        check(&expression("NotIn", json!(["1"])), &json!({ "a": "1" }), [false, true]);
        check(&expression("Exists", json!(null)), &json!({ "a": "" }), [true, true]);
        check(&expression("DoesNotExist", json!([])), &json!({ "a": "" }), [false, true]);
        check(&expression("Gt", json!(["1"])), &json!({ "a": "1" }), [true, false]);
        check(&expression("In", json!([])), &json!({ "a": "1" }), [true, false]);
        check(&expression("Exists", json!(["1"])), &json!({ "a": "1" }), [true, false]);
        check(&json!({ "matchLabel": {} }), &json!({}), [true, false]);
        check(&json!({ "matchLabels": { "-": "1" } }), &json!({}), [true, false]);
        check(&json!({ "matchLabels": { "a": 1 } }), &json!({ "a": "1" }), [true, false]);
    }
}
