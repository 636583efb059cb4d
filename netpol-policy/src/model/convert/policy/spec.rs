//! The spec of a policy, and its defaulting.

use netpol_common::ids::Direction;
use serde_json::Value;

use super::rule::rules;
use crate::model::convert::selector::selector;
use crate::model::convert::walk::{Fields, Findings, Path, quoted};
use crate::model::{Code, PolicyTypes, Rule, Selector};

/// Isolates in both directions.
const BOTH: PolicyTypes = PolicyTypes { ingress: true, egress: true };

/// What becomes of a policy whose directions cannot be known.
pub(super) const ISOLATES_BOTH: &str = "the policy isolates in both directions";

/// What becomes of a policy of which it is not clear which pods it means: what it allows might open pods that it does not
/// mean and that others isolate.
pub(super) const ALLOWS_NOTHING: &str =
    "the policy isolates in both directions and allows nothing, since it names no podSelector";

/// The most policy types that the API accepts.
const MAX_TYPES: usize = 2;

/// The normalised spec.
pub(super) struct Spec {
    pub(super) pod_selector: Selector,
    pub(super) policy_types: PolicyTypes,
    pub(super) ingress: Vec<Rule>,
    pub(super) egress: Vec<Rule>,
}

impl Spec {
    /// Takes all rules out.
    pub(super) fn allow_nothing(&mut self) {
        self.ingress.clear();
        self.egress.clear();
    }

    /// Isolates in both directions, because an unknown field may have been meant to. Rules that the policy
    /// types leave out do not come into force by that.
    pub(super) fn isolate_both(&mut self) {
        if !self.policy_types.ingress {
            self.ingress.clear();
        }
        if !self.policy_types.egress {
            self.egress.clear();
        }
        self.policy_types = BOTH;
    }
}

/// Whether a spec says which pods it means. If it does not, an unknown field may have been meant to.
pub(super) fn names_pods(spec: Fields<'_>) -> bool {
    spec.get("podSelector").is_some()
}

/// What becomes of a policy with an unknown field.
pub(super) fn effect_of_unknown(spec: Fields<'_>) -> &'static str {
    if names_pods(spec) { ISOLATES_BOTH } else { ALLOWS_NOTHING }
}

/// Reads the spec. A missing one is empty: it isolates every pod of the namespace for ingress.
///
/// Source: networking.k8s.io/v1 `NetworkPolicySpec` (a missing podSelector is an empty one).
pub(super) fn spec(value: Option<&Value>, path: &Path<'_>, findings: &mut Findings) -> Spec {
    let effect = "the policy isolates all pods of its namespace in both directions";
    let value = value.unwrap_or(&Value::Null);
    let Some(fields) = findings.mapping(path, value, effect) else {
        return Spec {
            pod_selector: Selector::everything(),
            policy_types: BOTH,
            ingress: Vec::new(),
            egress: Vec::new(),
        };
    };
    let known = ["podSelector", "policyTypes", "ingress", "egress"];
    let all_known = findings.all_known(path, fields, &known, effect_of_unknown(fields));
    let selected = selector(
        fields.get("podSelector"),
        &path.field("podSelector"),
        "the policy selects pods as if it were not there, and allows nothing",
        findings,
    );
    let mut spec = Spec {
        pod_selector: selected.selector,
        policy_types: policy_types(fields, &path.field("policyTypes"), findings),
        ingress: rules(fields.get("ingress"), Direction::Ingress, &path.field("ingress"), findings),
        egress: rules(fields.get("egress"), Direction::Egress, &path.field("egress"), findings),
    };
    if !all_known {
        spec.isolate_both();
    }
    if !selected.is_complete || !(all_known || names_pods(fields)) {
        spec.allow_nothing();
    }
    spec
}

/// Reads the policy types, or fills them in: ingress always, egress if there is an egress rule.
///
/// Source: networking.k8s.io/v1 `NetworkPolicySpec.policyTypes` and its defaulting.
fn policy_types(fields: Fields<'_>, path: &Path<'_>, findings: &mut Findings) -> PolicyTypes {
    let Some(items) = findings.list(path, fields.get("policyTypes"), ISOLATES_BOTH) else {
        return BOTH;
    };
    if items.is_empty() {
        let egress = fields.get("egress");
        // Something else than a list was meant to say something about egress.
        let has_egress = egress.is_some_and(|egress| *egress != Value::Array(Vec::new()));
        return PolicyTypes { ingress: true, egress: has_egress };
    }
    let mut types = PolicyTypes { ingress: false, egress: false };
    for (index, item) in items.iter().enumerate() {
        let path = path.item(index);
        match findings.text(&path, item, ISOLATES_BOTH) {
            Some("Ingress") => types.ingress = true,
            Some("Egress") => types.egress = true,
            Some(other) => {
                let other = quoted(other);
                let message = format!("{other} is neither Ingress nor Egress: {ISOLATES_BOTH}");
                findings.report(Code::InvalidPolicyTypes, &path, message);
                types = BOTH;
            }
            None => types = BOTH,
        }
    }
    if items.len() > MAX_TYPES {
        let message = format!("has more than {MAX_TYPES} items: {ISOLATES_BOTH}");
        findings.report(Code::InvalidPolicyTypes, path, message);
        types = BOTH;
    }
    types
}
