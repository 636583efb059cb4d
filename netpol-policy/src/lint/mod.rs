//! Checks for policies that are valid but probably mistaken.
//!
//! In: a set of objects. Out: [`Finding`]s with code, object, field and advice. A check that compares policies with
//! pods, namespaces or Services reports nothing if the set contains none that could be concerned. Objects that the API server would
//! reject are not checked here, because the conversion reports them. Must not: read files, or change a verdict.

mod blocks;
mod checks;
mod cluster_policies;
mod context;
mod cover;
mod cover_index;
mod dns;
mod finding;
mod labels;
mod level;
mod overlap;
mod ports;
mod precedence;
mod rules;
mod selectors;
mod shadow;

use std::sync::Arc;

use netpol_common::ids::Direction;

pub use checks::{CHECKS, Check};
pub use finding::Finding;
pub use level::Level;

use checks::OVER_CAPACITY;
use context::{LocatedRule, ObjectSet};
use finding::Report;

use crate::compile::{Capacities, describe, left_out_of_all};
use crate::model::{Kind, ObjectName, ObjectRef};
use crate::resolve::{cluster_rule_ref, rule_ref};
use crate::store::ClusterState;

/// How much of a cluster the objects are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A part, such as the output of one chart: other namespaces, pods and Services may exist.
    Partial,
    /// Everything.
    Complete,
}

/// What the checks know besides the objects.
pub struct Options<'a> {
    /// How much of a cluster the objects are.
    pub scope: Scope,
    /// Whether the author of a policy has written `policyTypes`.
    pub has_policy_types: &'a dyn Fn(&ObjectName) -> bool,
    /// The capacities of the maps.
    pub capacities: Capacities,
    /// Namespaces that have objects in the set and whose own object it lacks, sorted: what labels they have is not known, except their
    /// name.
    pub assumed_namespaces: &'a [Arc<str>],
}

impl Options<'_> {
    /// Objects that an API server has completed.
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            has_policy_types: &|_| true,
            capacities: Capacities::default(),
            assumed_namespaces: &[],
        }
    }
}

/// Runs every check on every policy. The findings are in the order of policies, ClusterNetworkPolicies last, then of fields.
pub fn lint(state: &ClusterState, options: &Options<'_>) -> Vec<Finding> {
    let Options { scope, has_policy_types, capacities, assumed_namespaces } = options;
    let objects = ObjectSet::new(state, *scope, assumed_namespaces);
    let left_out = left_out_of_all(state, capacities);
    let mut findings = Vec::new();
    for policy in state.policies() {
        let object = ObjectRef { kind: Kind::NetworkPolicy, name: policy.name.clone() };
        let mut report = Report { object, findings: Vec::new() };
        let selected = objects.selected(policy);
        selectors::check(&objects, policy, &selected, &mut report);
        if !has_policy_types(&policy.name) {
            rules::check_defaulting(policy, &mut report);
        }
        rules::check(policy, &mut report);
        dns::check(&objects, policy, &selected, &mut report);
        let destinations =
            if selected.is_empty() { selectors::meant(&objects, policy) } else { selected };
        for direction in Direction::ALL {
            if !policy.policy_types.contains(direction) {
                continue;
            }
            for rule in policy.rules(direction) {
                let reference = rule_ref(policy, direction, rule);
                let rule = LocatedRule::new(policy, direction, rule);
                selectors::check_peers(&objects, &rule, &mut report);
                blocks::check(&objects, &rule, &mut report);
                ports::check(&objects, &rule, &destinations, &mut report);
                if let Some(lack) = left_out.get(&reference) {
                    let (field, message) = describe(&reference, *lack, capacities);
                    report.add(&OVER_CAPACITY, field, message);
                }
            }
        }
        findings.append(&mut report.sorted());
    }
    for (policy, mut report) in cluster_policies::check(&objects) {
        for direction in Direction::ALL {
            for listed in policy.rules(direction) {
                let reference = cluster_rule_ref(policy, direction, &listed.rule);
                if let Some(lack) = left_out.get(&reference) {
                    let (field, message) = describe(&reference, *lack, capacities);
                    report.add(&OVER_CAPACITY, field, message);
                }
            }
        }
        findings.append(&mut report.sorted());
    }
    findings
}

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;
