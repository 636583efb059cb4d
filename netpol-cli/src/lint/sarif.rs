//! Findings in the Static Analysis Results Interchange Format, which code hosts show next to the lines.
//!
//! Source: OASIS SARIF 2.1.0.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Component, Path};

use serde_json::{Value, json};

use netpol_policy::lint::{CHECKS, Level};
use netpol_policy::manifests::{FileCode, Location, STDIN};
use netpol_policy::model::{Code, Severity};

use super::entry::{self, Entry};

/// The page that explains the findings of a build whose project has no page: that of the API.
const API_PAGE: &str = "https://kubernetes.io/docs/concepts/services-networking/network-policies/";

/// The name of the folder that relative paths begin at, which a code host takes for the root of the repository.
const ROOT: &str = "%SRCROOT%";

/// A log with one run. Paths below `folder`, the working directory, are relative.
pub(super) fn log(entries: &[Entry], folder: Option<&Path>) -> Value {
    let used: BTreeSet<&str> = entries.iter().map(|entry| entry.code).collect();
    let rules: Vec<Value> = rules().filter(|rule| is_used(rule, &used)).collect();
    let index = |code: &str| {
        rules.iter().position(|rule| rule.get("id").and_then(Value::as_str) == Some(code))
    };
    let results = entries.iter().map(|entry| result(entry, index(entry.code), folder));
    let results: Vec<Value> = results.collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "netpol",
                "semanticVersion": netpol_proto::build::VERSION,
                "version": netpol_proto::build::version(),
                "informationUri": netpol_proto::build::HOMEPAGE.unwrap_or(API_PAGE),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
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
            "fullDescription": { "text": format!("{} {}", check.finds, check.advice) },
            "help": {
                "text": check.advice,
                "markdown": format!("{}\n\n{}", check.finds, check.advice),
            },
            "helpUri": help_uri(check.code),
            "defaultConfiguration": { "level": level(check.level) },
            "properties": { "tags": ["networkpolicy", "probable-mistake"] },
        })
    });
    let of_code = |id: &str, meaning: &str, severity: Severity| {
        json!({
            "id": id,
            "shortDescription": { "text": meaning },
            "fullDescription": { "text": meaning },
            "help": { "text": meaning, "markdown": meaning },
            "helpUri": help_uri(id),
            "defaultConfiguration": { "level": level(entry::level(severity)) },
            "properties": { "tags": ["networkpolicy", "not-in-force"] },
        })
    };
    let of_objects =
        Code::ALL.iter().map(move |code| of_code(code.as_str(), code.meaning(), code.severity()));
    let of_files = FileCode::ALL
        .iter()
        .map(move |code| of_code(code.as_str(), code.meaning(), code.severity()));
    checks.chain(of_objects).chain(of_files)
}

/// The page about a code.
fn help_uri(code: &str) -> String {
    netpol_proto::build::HOMEPAGE.map_or_else(
        || API_PAGE.to_owned(),
        |homepage| format!("{homepage}/blob/HEAD/docs/lint.md#{}", code.to_lowercase()),
    )
}

fn result(entry: &Entry, rule_index: Option<usize>, folder: Option<&Path>) -> Value {
    let mut sarif_location = json!({});
    if let Some(location) = &entry.location {
        insert(&mut sarif_location, "physicalLocation", physical(location, folder));
    }
    if let Some(object) = &entry.object {
        let field = entry.field.as_deref().unwrap_or_default();
        let name = format!("{object} {field}");
        let logical = json!([{ "fullyQualifiedName": name.trim_end(), "kind": "object" }]);
        insert(&mut sarif_location, "logicalLocations", logical);
    }
    let subject = entry.object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
    let mut result = json!({
        "ruleId": entry.code,
        "level": level(entry.level),
        "message": { "text": format!("{subject}{}", entry.message) },
        "locations": [sarif_location],
    });
    if let Some(index) = rule_index {
        insert(&mut result, "ruleIndex", json!(index));
    }
    result
}

fn physical(location: &Location, folder: Option<&Path>) -> Value {
    let Location { file, line, column } = location;
    let mut physical = json!({ "artifactLocation": artifact(file, folder) });
    let region = match (line, column) {
        (0, _) => return physical,
        (line, 0) => json!({ "startLine": line }),
        (line, column) => json!({ "startLine": line, "startColumn": column }),
    };
    insert(&mut physical, "region", region);
    physical
}

/// The place of a file: relative to the working directory if it is below it, because a code host knows no other folder.
fn artifact(file: &Path, folder: Option<&Path>) -> Value {
    if file.as_os_str() == STDIN {
        return json!({ "uri": "stdin", "description": { "text": "the standard input" } });
    }
    let below = folder.and_then(|folder| file.strip_prefix(folder).ok()).unwrap_or(file);
    if below.is_absolute() {
        return json!({ "uri": format!("file://{}", uri(below)) });
    }
    if below.components().any(|part| part == Component::ParentDir) {
        return json!({ "uri": uri(below) });
    }
    json!({ "uri": uri(below), "uriBaseId": ROOT })
}

/// The path with `/` between its parts, in which other letters than those that a URI has are percent-encoded.
fn uri(path: &Path) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut uri = String::new();
    for part in path.components() {
        let text = match part {
            Component::CurDir => continue,
            Component::RootDir | Component::Prefix(_) => {
                uri.push('/');
                continue;
            }
            Component::ParentDir => "..".to_owned(),
            Component::Normal(name) => name.to_string_lossy().into_owned(),
        };
        if !uri.is_empty() && !uri.ends_with('/') {
            uri.push('/');
        }
        for byte in text.bytes() {
            if is_plain(byte) {
                uri.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                write!(uri, "%{byte:02X}").ok();
            }
        }
    }
    uri
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_the_working_directory_are_relative() {
        for (file, uri, is_below) in [
            ("a/b c.yaml", "a/b%20c.yaml", true),
            ("./a/b.yaml", "a/b.yaml", true),
            ("/repo/deploy/ä.yaml", "deploy/%C3%A4.yaml", true),
            ("/elsewhere/a#b.yaml", "file:///elsewhere/a%23b.yaml", false),
            ("../a.yaml", "../a.yaml", false),
            ("-", "stdin", false),
        ] {
            let found = artifact(Path::new(file), Some(Path::new("/repo")));
            assert_eq!(found["uri"], uri);
            assert_eq!(found.get("uriBaseId").is_some(), is_below, "{file}");
        }
    }
}
