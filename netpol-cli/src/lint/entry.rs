//! Findings of all origins in one form: of files, of the conversion of objects, and of checks.

use serde::Serialize;

use netpol_policy::lint::{self, Level, Options, Scope};
use netpol_policy::manifests::{self, Cause, Location};
use netpol_policy::model::{Diagnostic, Kind, Object, ObjectName, ObjectRef, Severity};
use netpol_policy::store::{ClusterState, Delta};

use crate::input::Input;

/// A finding of any origin, as `-o json` writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Entry {
    pub(super) code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'static str>,
    pub(super) level: Level,
    /// File and line; `None` for objects of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) location: Option<Location>,
    /// Kind, namespace and name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) field: Option<String>,
    pub(super) message: String,
    /// The advice of the check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<&'static str>,
}

/// All findings, sorted by location.
pub(super) fn entries(input: &Input, objects: Vec<Object>, scope: Scope) -> Vec<Entry> {
    let Input { manifests, live_diagnostics, .. } = input;
    let mut state = ClusterState::default();
    for object in objects {
        drop(state.apply(Delta::Upsert(object)));
    }
    let mut entries: Vec<Entry> = manifests.findings.iter().map(from_file).collect();
    entries.extend(live_diagnostics.iter().map(|diagnostic| from_object(diagnostic, None)));
    let has_policy_types = |policy: &ObjectName| {
        let object = ObjectRef { kind: Kind::NetworkPolicy, name: policy.clone() };
        manifests.has_field(&object, &["spec", "policyTypes"])
    };
    let options = Options { has_policy_types: &has_policy_types, ..Options::new(scope) };
    for finding in lint::lint(&state, &options) {
        let lint::Finding { check, level, object, field, message } = finding;
        entries.push(Entry {
            code: check.code,
            name: Some(check.name),
            level,
            location: manifests.location_of(&object, &field),
            object: Some(object.to_string()),
            field: Some(field),
            message,
            advice: Some(check.advice),
        });
    }
    entries.sort_by(|one, other| one.location.cmp(&other.location));
    entries
}

fn from_file(finding: &manifests::Finding) -> Entry {
    let location = Some(finding.location.clone());
    match &finding.cause {
        Cause::File { code, message } => Entry {
            code: code.as_str(),
            name: None,
            level: level(code.severity()),
            location,
            object: None,
            field: None,
            message: message.clone(),
            advice: None,
        },
        Cause::Object(diagnostic) => from_object(diagnostic, location),
    }
}

fn from_object(diagnostic: &Diagnostic, location: Option<Location>) -> Entry {
    let Diagnostic { code, object, field, message } = diagnostic;
    Entry {
        code: code.as_str(),
        name: None,
        level: level(code.severity()),
        location,
        object: Some(object.to_string()),
        field: Some(field.clone()),
        message: message.clone(),
        advice: None,
    }
}

pub(super) const fn level(severity: Severity) -> Level {
    match severity {
        Severity::Error => Level::Error,
        Severity::Warning => Level::Warning,
    }
}
