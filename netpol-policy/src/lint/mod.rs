//! Checks for policies that are valid but probably mistaken.
//!
//! In: a whole set of objects. Out: [`Finding`]s with code, object, field and advice. A check that compares policies with
//! pods, namespaces or Services reports nothing if the set contains none of that kind. Objects that the API server would
//! reject are not checked here, because the conversion reports them. Must not: read files, or change a verdict.

mod blocks;
mod checks;
mod context;
mod cover;
mod dns;
mod finding;
mod level;
mod ports;
mod rules;
mod selectors;

use netpol_common::ids::Direction;

pub use checks::{CHECKS, Check};
pub use finding::Finding;
pub use level::Level;

use checks::OVER_CAPACITY;
use context::{LocatedRule, ObjectSet};
use finding::Report;

use crate::compile::{Capacities, describe, left_out_of_all};
use crate::store::ClusterState;

/// Runs every check on every policy. The findings are in the order of policies, then of fields.
pub fn lint(state: &ClusterState) -> Vec<Finding> {
    lint_within(state, &Capacities::default())
}

/// [`lint`] for maps of these capacities.
pub fn lint_within(state: &ClusterState, capacities: &Capacities) -> Vec<Finding> {
    let objects = ObjectSet::new(state);
    let left_out = left_out_of_all(state, capacities);
    let mut findings = Vec::new();
    for policy in state.policies() {
        let mut report = Report { policy, findings: Vec::new() };
        selectors::check(&objects, policy, &mut report);
        rules::check(policy, &mut report);
        dns::check(&objects, policy, &mut report);
        for direction in Direction::ALL {
            if !policy.policy_types.contains(direction) {
                continue;
            }
            for rule in policy.rules(direction) {
                let rule = LocatedRule { policy, direction, spec: rule };
                selectors::check_peers(&objects, &rule, &mut report);
                blocks::check(&objects, &rule, &mut report);
                ports::check(&objects, &rule, &mut report);
                let rule = rule.reference();
                if let Some(lack) = left_out.get(&rule) {
                    let (field, message) = describe(&rule, *lack, capacities);
                    report.add(&OVER_CAPACITY, field, message);
                }
            }
        }
        report.findings.sort_by(|one, other| {
            (&one.field, one.check.code).cmp(&(&other.field, other.check.code))
        });
        findings.append(&mut report.findings);
    }
    findings
}

#[cfg(test)]
mod tests;
