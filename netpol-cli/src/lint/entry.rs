//! Findings of all origins in one form: of files, of the conversion of objects, and of checks.

use serde::Serialize;

use netpol_policy::lint::{self, Level, Options, Scope};
use netpol_policy::manifests::{self, Cause, Location, Manifests};
use netpol_policy::model::{Code, Diagnostic, Kind, Object, ObjectName, ObjectRef, Severity};
use netpol_policy::simulate::with_implicit_namespaces;
use netpol_policy::store::{ClusterState, Delta};

use super::fix::Fix;
use crate::input::Input;

/// A finding of any origin, as `-o json` writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Entry {
    pub(crate) code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<&'static str>,
    pub(crate) level: Level,
    /// File and line; `None` for objects of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) location: Option<Location>,
    /// Column of the field, in characters from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) column: Option<usize>,
    /// Kind, namespace and name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
    pub(crate) message: String,
    /// The advice of the check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<&'static str>,
    /// The change of the file that removes the finding.
    #[serde(skip)]
    pub(super) fix: Option<Fix>,
}

/// All findings on the input and these objects of it, sorted by location.
pub(crate) fn entries(input: &Input, objects: Vec<Object>, scope: Scope) -> Vec<Entry> {
    let (objects, assumed_namespaces) = match scope {
        Scope::Complete => (objects, Vec::new()),
        Scope::Partial => with_implicit_namespaces(objects),
    };
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
    let options = Options {
        has_policy_types: &has_policy_types,
        assumed_namespaces: &assumed_namespaces,
        ..Options::new(scope)
    };
    for finding in lint::lint(&state, &options) {
        let lint::Finding { check, level, object, field, message } = finding;
        entries.push(Entry {
            code: check.code,
            name: Some(check.name),
            level,
            column: None,
            location: manifests.location_of(&object, &field),
            fix: fix(check.code, manifests, &object, &field),
            object: Some(object.to_string()),
            field: Some(field),
            message,
            advice: Some(check.advice),
        });
    }
    for entry in &mut entries {
        let column = entry.location.as_ref().map(|location| location.column);
        entry.column = column.filter(|column| *column != 0);
    }
    entries.sort_by(|one, other| one.location.cmp(&other.location));
    entries
}

/// The change that removes a finding of a check, if it is mechanical.
fn fix(code: &str, manifests: &Manifests, object: &ObjectRef, field: &str) -> Option<Fix> {
    match code {
        "NP011" => manifests.location_of(object, "spec.egress").map(Fix::PolicyTypes),
        "NP005" => {
            let (list, index) = field.strip_suffix(']')?.rsplit_once('[')?;
            let before = index.parse::<usize>().ok()?.checked_sub(1)?;
            manifests.location_of(object, &format!("{list}[{before}]")).map(Fix::JoinPeers)
        }
        _ => None,
    }
}

fn from_file(finding: &manifests::Finding) -> Entry {
    let location = Some(finding.location.clone());
    match &finding.cause {
        Cause::File { code, message } => Entry {
            code: code.as_str(),
            name: None,
            level: level(code.severity()),
            location,
            column: None,
            object: None,
            field: None,
            message: message.clone(),
            advice: None,
            fix: None,
        },
        Cause::Object(diagnostic) => from_object(diagnostic, location),
    }
}

fn from_object(diagnostic: &Diagnostic, location: Option<Location>) -> Entry {
    let Diagnostic { code, object, field, message } = diagnostic;
    // An object of a cluster was accepted by its server. A server of the current version refuses the same text in a file.
    let is_refused = *code == Code::UnusualBlock && location.is_some();
    let message = if is_refused {
        format!("{message}, and refused by an API server of 1.36 or later")
    } else {
        message.clone()
    };
    Entry {
        code: code.as_str(),
        name: None,
        level: if is_refused { Level::Error } else { level(code.severity()) },
        location,
        column: None,
        object: Some(object.to_string()),
        field: Some(field.clone()),
        message,
        advice: None,
        fix: is_refused.then_some(Fix::CanonicalBlock),
    }
}

pub(super) const fn level(severity: Severity) -> Level {
    match severity {
        Severity::Error => Level::Error,
        Severity::Warning => Level::Warning,
    }
}
