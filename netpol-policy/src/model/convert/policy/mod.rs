//! `NetworkPolicy`.
//!
//! An own walker instead of a derived decoder: a policy of which one part is wrong must still isolate
//! what it selects, and every finding names its exact field. What is not understood is taken in the
//! direction that allows less: a subject's selector selects more, a peer, a port or a rule matches nothing.

mod block;
mod port;
mod rule;
mod spec;
#[cfg(test)]
mod tests;

pub(super) use block::report_oddities;
pub(super) use port::number;
use serde_json::Value;

use super::metadata::{MODE, Metadata};
use super::walk::{Fields, Findings, Path};
use crate::model::{Diagnostic, Kind, ObjectName, Policy, Revision};

/// Annotation: `keep` leaves connections alone that the policy forbids later.
const EXISTING_CONNECTIONS: &str = "netpol/existing-connections";

/// The fields of the object.
const FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];

/// Normalises a `NetworkPolicy`. `None` only when it has no name that can be read.
///
/// Source: networking.k8s.io/v1 `NetworkPolicy`, its defaulting and its validation.
pub fn policy(value: &Value) -> (Option<Policy>, Vec<Diagnostic>) {
    let effect = "the object is left out";
    let mut nameless = Findings::new(Kind::NetworkPolicy, ObjectName::cluster_scoped(""));
    let Some(fields) = nameless.mapping(&Path::Root, value, effect) else {
        return (None, nameless.into_diagnostics());
    };
    let (metadata, mut findings) = Metadata::from_value(Kind::NetworkPolicy, fields);
    if !metadata.has_name(&mut findings) || Metadata::is_misplaced(fields) {
        return (None, findings.into_diagnostics());
    }
    // A field one level too high may have been meant for the spec.
    let spec_fields = fields.get("spec").map(Fields::of).unwrap_or_default();
    let effect = spec::effect_of_unknown(spec_fields);
    let all_known = findings.all_known(&Path::Root, fields, &FIELDS, effect);
    let mut spec = spec::spec(fields.get("spec"), &Path::Root.field("spec"), &mut findings);
    if !all_known {
        spec.isolate_both();
        if !spec::names_pods(spec_fields) {
            spec.allow_nothing();
        }
    }
    metadata.check_annotations(&[MODE, EXISTING_CONNECTIONS], &mut findings);
    let policy = Policy {
        name: metadata.object_name(Kind::NetworkPolicy),
        pod_selector: spec.pod_selector,
        policy_types: spec.policy_types,
        ingress: spec.ingress.into(),
        egress: spec.egress.into(),
        mode: metadata.mode(&mut findings),
        keeps_connections: metadata.choice(
            EXISTING_CONNECTIONS,
            [("cut", false), ("keep", true)],
            &mut findings,
        ),
        uid: metadata.uid,
        revision: Revision::of(value),
    };
    (Some(policy), findings.into_diagnostics())
}
