//! `ClusterNetworkPolicy`.
//!
//! As for a NetworkPolicy, every part that is not understood is taken in the direction that allows less. A rule that is not
//! understood matches nothing if it accepts, and denies everything if it denies or passes on: a Pass rule that matched too
//! much would skip denies. If the policy as a whole is not understood (its tier, its subject), it concerns every pod that
//! the rest of it selects, its Accept rules match nothing, and its Pass rules deny what they match.

mod peers;
mod protocols;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use netpol_common::ids::Direction;
use serde_json::Value;

use super::metadata::{MODE, Metadata};
use super::selector::selector;
use super::walk::{Fields, Findings, Path, quoted};
use crate::model::{
    Action, ClusterPolicy, ClusterRule, ClusterTier, Code, Diagnostic, Kind, ObjectName, Selector,
    Subject,
};

/// The fields of the object.
const FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];

/// The highest priority value.
const MAX_PRIORITY: u16 = 1000;

/// What becomes of a policy that is not understood.
const CLOSES: &str = "the Accept rules match nothing, and the Pass rules deny";

/// Normalises a `ClusterNetworkPolicy`. `None` only when it has no name that can be read.
///
/// Source: policy.networking.k8s.io/v1alpha2 `ClusterNetworkPolicy` and its validation.
pub fn cluster_policy(value: &Value) -> (Option<ClusterPolicy>, Vec<Diagnostic>) {
    let kind = Kind::ClusterNetworkPolicy;
    let mut nameless = Findings::new(kind, ObjectName::cluster_scoped(""));
    let Some(fields) = nameless.mapping(&Path::Root, value, "the object is left out") else {
        return (None, nameless.into_diagnostics());
    };
    let (metadata, mut findings) = Metadata::from_value(kind, fields);
    if !metadata.has_name(&mut findings) {
        return (None, findings.into_diagnostics());
    }
    let mut is_complete = findings.all_known(&Path::Root, fields, &FIELDS, CLOSES);
    let path = Path::Root.field("spec");
    let spec = findings.mapping(&path, fields.get("spec").unwrap_or(&Value::Null), CLOSES);
    let spec = spec.unwrap_or_default();
    let known = ["tier", "priority", "subject", "ingress", "egress"];
    is_complete &= findings.all_known(&path, spec, &known, CLOSES);
    let tier = tier(spec, &path, &mut findings);
    let priority = priority(spec, &path, &mut findings);
    let (subject, is_understood) = subject(spec, &path, &mut findings);
    is_complete &= tier.is_some() && priority.is_some() && is_understood;
    let mut read = |direction: Direction| {
        let rules = rules::rules(spec, direction, &path, &mut findings);
        if is_complete { rules } else { closed(rules) }
    };
    let (ingress, egress) = (read(Direction::Ingress), read(Direction::Egress));
    metadata.check_annotations(&[MODE], &mut findings);
    let generation = value.pointer("/metadata/generation").and_then(Value::as_i64);
    let policy = ClusterPolicy {
        name: Arc::clone(&metadata.name),
        tier: tier.unwrap_or(ClusterTier::Admin),
        priority: priority.unwrap_or_default(),
        subject,
        ingress: ingress.into(),
        egress: egress.into(),
        mode: metadata.mode(&mut findings),
        uid: metadata.uid,
        generation: generation.unwrap_or_default(),
    };
    (Some(policy), findings.into_diagnostics())
}

/// The rules of a policy that is not understood.
fn closed(mut rules: Vec<ClusterRule>) -> Vec<ClusterRule> {
    rules.retain(|rule| rule.action != Action::Accept);
    for rule in &mut rules {
        rule.action = Action::Deny;
    }
    rules
}

fn tier(spec: Fields<'_>, path: &Path<'_>, findings: &mut Findings) -> Option<ClusterTier> {
    let path = path.field("tier");
    let text = findings.text(&path, spec.get("tier").unwrap_or(&Value::Null), CLOSES)?;
    match text {
        "Admin" => Some(ClusterTier::Admin),
        "Baseline" => Some(ClusterTier::Baseline),
        other => {
            let message = format!(
                "{} is neither Admin nor Baseline: it is read as Admin, {CLOSES}",
                quoted(other)
            );
            findings.report(Code::Malformed, &path, message);
            None
        }
    }
}

fn priority(spec: Fields<'_>, path: &Path<'_>, findings: &mut Findings) -> Option<u16> {
    let path = path.field("priority");
    let value = spec.get("priority").unwrap_or(&Value::Null);
    let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
    let number = number.filter(|number| *number <= MAX_PRIORITY);
    if number.is_none() {
        let found = if value.is_null() { "is missing".to_owned() } else { format!("is {value}") };
        let message = format!(
            "{found}, not a whole number from 0 to {MAX_PRIORITY}: it is read as 0, {CLOSES}"
        );
        findings.report(Code::Malformed, &path, message);
    }
    number
}

/// The subject, and whether all of it was understood. What was not selects more.
fn subject(spec: Fields<'_>, path: &Path<'_>, findings: &mut Findings) -> (Subject, bool) {
    let effect = format!("the policy concerns every pod that the rest of it selects, {CLOSES}");
    let path = path.field("subject");
    let everything = Subject { namespaces: Selector::everything(), pods: Selector::everything() };
    let value = spec.get("subject").unwrap_or(&Value::Null);
    let Some(fields) = findings.mapping(&path, value, &effect) else {
        return (everything, false);
    };
    let all_known = findings.all_known(&path, fields, &["namespaces", "pods"], &effect);
    match (fields.get("namespaces"), fields.get("pods")) {
        (Some(namespaces), None) => {
            let read = selector(Some(namespaces), &path.field("namespaces"), &effect, findings);
            let subject = Subject { namespaces: read.selector, pods: Selector::everything() };
            (subject, all_known && read.is_complete)
        }
        (None, Some(pods)) => {
            let read = peers::namespaced_pods(pods, &path.field("pods"), &effect, findings);
            (
                Subject { namespaces: read.namespaces, pods: read.pods },
                all_known && read.is_complete,
            )
        }
        (None, None) | (Some(_), Some(_)) => {
            let message = format!("has not exactly one of namespaces and pods: {effect}");
            findings.report(Code::InvalidSelector, &path, message);
            (everything, false)
        }
    }
}
