//! Findings, and their collection for one policy.

use super::checks::Check;
use super::level::Level;
use crate::model::ObjectRef;

/// One result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check.
    pub check: &'static Check,
    /// The severity, which can differ from the check's default.
    pub level: Level,
    /// The object.
    pub object: ObjectRef,
    /// Path of the field, such as `spec.ingress[0].from[1]`. Indexes into `from`, `to` and `ports` count valid items only.
    pub field: String,
    /// The problem, as the continuation of the field's path: lower case, no full stop.
    pub message: String,
}

/// Collects the findings on one policy.
pub(super) struct Report {
    pub(super) object: ObjectRef,
    pub(super) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn add(&mut self, check: &'static Check, field: String, message: String) {
        self.add_at(check.level, check, field, message);
    }

    pub(super) fn add_at(
        &mut self,
        level: Level,
        check: &'static Check,
        field: String,
        message: String,
    ) {
        let object = self.object.clone();
        self.findings.push(Finding { check, level, object, field, message });
    }

    /// The findings in the order of fields.
    pub(super) fn sorted(mut self) -> Vec<Finding> {
        self.findings.sort_by(|one, other| {
            (&one.field, one.check.code).cmp(&(&other.field, other.check.code))
        });
        self.findings
    }
}
