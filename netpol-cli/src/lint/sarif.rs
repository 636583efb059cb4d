//! Findings in the Static Analysis Results Interchange Format, which code hosts show next to the lines.
//!
//! Source: OASIS SARIF 2.1.0.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use netpol_policy::lint::{CHECKS, Level};
use netpol_policy::manifests::FileCode;
use netpol_policy::model::{Code, Severity};

use super::entry::{self, Entry};

/// A log with one run.
pub(super) fn log(entries: &[Entry]) -> Value {
    let used: BTreeSet<&str> = entries.iter().map(|entry| entry.code).collect();
    let rules: Vec<Value> = rules().filter(|rule| is_used(rule, &used)).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "netpol",
                "version": netpol_proto::build::VERSION,
                "rules": rules,
            } },
            "results": entries.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

fn is_used(rule: &Value, used: &BTreeSet<&str>) -> bool {
    rule.get("id").and_then(Value::as_str).is_some_and(|id| used.contains(id))
}

fn rules() -> impl Iterator<Item = Value> {
    let checks = CHECKS.iter().map(|check| {
        json!({
            "id": check.code,
            "name": check.name,
            "shortDescription": { "text": check.finds },
            "help": { "text": check.advice },
            "defaultConfiguration": { "level": level(check.level) },
        })
    });
    let of_code = |id: &str, meaning: &str, severity: Severity| {
        json!({
            "id": id,
            "shortDescription": { "text": meaning },
            "defaultConfiguration": { "level": level(entry::level(severity)) },
        })
    };
    let of_objects =
        Code::ALL.iter().map(move |code| of_code(code.as_str(), code.meaning(), code.severity()));
    let of_files = FileCode::ALL
        .iter()
        .map(move |code| of_code(code.as_str(), code.meaning(), code.severity()));
    checks.chain(of_objects).chain(of_files)
}

fn result(entry: &Entry) -> Value {
    let mut sarif_location = json!({});
    if let Some(location) = &entry.location {
        let mut physical =
            json!({ "artifactLocation": { "uri": location.file.to_string_lossy() } });
        if let (line @ 1.., Some(physical)) = (location.line, physical.as_object_mut()) {
            physical.insert("region".to_owned(), json!({ "startLine": line }));
        }
        insert(&mut sarif_location, "physicalLocation", physical);
    }
    if let Some(object) = &entry.object {
        let field = entry.field.as_deref().unwrap_or_default();
        let name = format!("{object} {field}");
        let logical = json!([{ "fullyQualifiedName": name.trim_end(), "kind": "object" }]);
        insert(&mut sarif_location, "logicalLocations", logical);
    }
    let subject = entry.object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
    json!({
        "ruleId": entry.code,
        "level": level(entry.level),
        "message": { "text": format!("{subject}{}", entry.message) },
        "locations": [sarif_location],
    })
}

fn insert(object: &mut Value, key: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(key.to_owned(), value);
    }
}

const fn level(level: Level) -> &'static str {
    match level {
        Level::Info => "note",
        Level::Warning => "warning",
        Level::Error => "error",
    }
}
