//! Label selectors.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::syntax::{is_label_key, is_label_value};
use super::walk::{Fields, Findings, Path, quoted};
use crate::model::{Code, Requirement, Selector, Values};

/// A selector as far as it was understood.
#[derive(Clone, Debug)]
pub(super) struct ReadSelector {
    /// The requirements that were understood. With fewer of them it selects more.
    pub(super) selector: Selector,
    /// Whether there was nothing else.
    pub(super) is_complete: bool,
}

/// Reads a selector; a missing one selects everything.
///
/// Source: meta/v1 `LabelSelector`, checked as `ValidateLabelSelector` does. `effect` says what becomes
/// of something that is not understood.
pub(super) fn selector(
    value: Option<&Value>,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> ReadSelector {
    let value = value.unwrap_or(&Value::Null);
    let Some(fields) = findings.mapping(path, value, effect) else {
        return ReadSelector { selector: Selector::everything(), is_complete: false };
    };
    let known = ["matchLabels", "matchExpressions"];
    let mut is_complete = findings.all_known(path, fields, &known, effect);
    let mut requirements = Vec::new();
    let mut take = |requirement: Option<Requirement>| {
        is_complete &= requirement.is_some();
        requirements.extend(requirement);
    };

    let labels_path = path.field("matchLabels");
    let labels = fields.get("matchLabels").unwrap_or(&Value::Null);
    match findings.mapping(&labels_path, labels, effect) {
        None => take(None),
        Some(labels) => {
            for (key, value) in labels.iter() {
                take(match_label(key, value, &labels_path.key(key), effect, findings));
            }
        }
    }
    let list_path = path.field("matchExpressions");
    match findings.list(&list_path, fields.get("matchExpressions"), effect) {
        None => take(None),
        Some(items) => {
            for (index, item) in items.iter().enumerate() {
                take(expression(item, &list_path.item(index), effect, findings));
            }
        }
    }
    ReadSelector { selector: Selector::new(requirements), is_complete }
}

fn match_label(
    key: &str,
    value: &Value,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> Option<Requirement> {
    let key = label_key(key, path, effect, findings);
    let value = label_value(value, path, effect, findings);
    Some(Requirement::In(key?, Values::from([value?])))
}

/// One item of `matchExpressions`.
fn expression(
    value: &Value,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> Option<Requirement> {
    let fields = findings.mapping(path, value, effect)?;
    let all_known = findings.all_known(path, fields, &["key", "operator", "values"], effect);
    let key_path = path.field("key");
    let key = findings
        .text(&key_path, fields.get("key").unwrap_or(&Value::Null), effect)
        .and_then(|key| label_key(key, &key_path, effect, findings));
    let values = values(fields, path, effect, findings);
    let operator_path = path.field("operator");
    let operator = fields.get("operator").unwrap_or(&Value::Null);
    let operator = findings.text(&operator_path, operator, effect)?;
    let (key, values) = (key?, values?);
    let requirement = match operator {
        "In" | "NotIn" if values.is_empty() => {
            let message = format!("is empty, which {operator} does not allow: {effect}");
            findings.report(Code::InvalidSelector, &path.field("values"), message);
            return None;
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let message = format!("is not empty, which {operator} does not allow: {effect}");
            findings.report(Code::InvalidSelector, &path.field("values"), message);
            return None;
        }
        "In" => Requirement::In(key, values.into_iter().collect()),
        "NotIn" => Requirement::NotIn(key, values.into_iter().collect()),
        "Exists" => Requirement::Exists(key),
        "DoesNotExist" => Requirement::DoesNotExist(key),
        other => {
            let other = quoted(other);
            let message = format!("{other} is not In, NotIn, Exists or DoesNotExist: {effect}");
            findings.report(Code::InvalidSelector, &operator_path, message);
            return None;
        }
    };
    all_known.then_some(requirement)
}

/// The values of an expression; `None` when one of them was not understood.
fn values(
    fields: Fields<'_>,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> Option<BTreeSet<Arc<str>>> {
    let path = path.field("values");
    let items = findings.list(&path, fields.get("values"), effect)?;
    let mut values = Some(BTreeSet::new());
    for (index, item) in items.iter().enumerate() {
        let value = label_value(item, &path.item(index), effect, findings);
        values = values.zip(value).map(|(mut values, value)| {
            values.insert(value);
            values
        });
    }
    values
}

fn label_key(
    key: &str,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> Option<Arc<str>> {
    if !is_label_key(key) {
        let message = format!("{} is not a valid label key: {effect}", quoted(key));
        findings.report(Code::InvalidSelector, path, message);
        return None;
    }
    Some(Arc::from(key))
}

fn label_value(
    value: &Value,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> Option<Arc<str>> {
    let text = findings.text(path, value, effect)?;
    if !is_label_value(text) {
        let message = format!("{} is not a valid label value: {effect}", quoted(text));
        findings.report(Code::InvalidSelector, path, message);
        return None;
    }
    Some(Arc::from(text))
}
