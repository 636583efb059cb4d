//! Named checks: what is valid, and probably not what was meant.
//!
//! In: a whole set of objects. Out: [`Finding`]s with code, object, field and what to do about it. A check that needs
//! pods, namespaces or Services to compare with is silent when the set has none. What the API server itself would refuse
//! is not looked for here: conversion has reported it. Must not: read files, or change a verdict.

mod blocks;
mod checks;
mod cover;
mod dns;
mod ports;
mod rules;
mod selectors;

use std::fmt;
use std::net::IpAddr;

use netpol_common::ids::Direction;
use serde::Serialize;

pub use checks::{CHECKS, Check};

use checks::NO_ROOM;

use crate::compile::{Capacities, describe, left_out_of_all};
use crate::model::{Kind, NamespaceMatch, ObjectRef, Peer, Peers, Pod, Policy, Rule};
use crate::resolve::{RuleRef, rule_ref};
use crate::store::ClusterState;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Worth knowing; often meant.
    Info,
    /// Probably not what was meant.
    Warning,
    /// Not in force as written.
    Error,
}

impl Level {
    /// The level in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a check found in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check.
    pub check: &'static Check,
    /// How much it matters here.
    pub level: Level,
    /// The object.
    pub object: ObjectRef,
    /// Path of the field, such as `spec.ingress[0].from[1]`. Positions count what could be understood.
    pub field: String,
    /// What is the case: lower case, no full stop.
    pub message: String,
}

/// Runs every check on every policy. The findings are in the order of policies, then of fields.
pub fn lint(state: &ClusterState) -> Vec<Finding> {
    lint_within(state, &Capacities::default())
}

/// [`lint`] for maps of another size.
pub fn lint_within(state: &ClusterState, capacities: &Capacities) -> Vec<Finding> {
    let surroundings = Surroundings::new(state);
    let left_out = left_out_of_all(state, capacities);
    let mut findings = Vec::new();
    for policy in state.policies() {
        let mut report = Report { policy, findings: Vec::new() };
        selectors::check(&surroundings, policy, &mut report);
        rules::check(policy, &mut report);
        dns::check(&surroundings, policy, &mut report);
        for direction in Direction::ALL {
            if !policy.policy_types.contains(direction) {
                continue;
            }
            for rule in policy.rules(direction) {
                let place = Place { policy, direction, rule };
                selectors::check_peers(&surroundings, &place, &mut report);
                blocks::check(&surroundings, &place, &mut report);
                ports::check(&surroundings, &place, &mut report);
                let rule = place.reference();
                if let Some(lack) = left_out.get(&rule) {
                    let (field, message) = describe(&rule, *lack, capacities);
                    report.add(&NO_ROOM, field, message);
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

/// The objects around a policy, and which kinds of them the set has at all.
struct Surroundings<'a> {
    state: &'a ClusterState,
    has_pods: bool,
    has_namespaces: bool,
    /// Some pod has addresses of both families.
    is_dual_stack: bool,
}

impl<'a> Surroundings<'a> {
    fn new(state: &'a ClusterState) -> Self {
        Self {
            state,
            has_pods: state.pods().next().is_some(),
            has_namespaces: state.namespaces().next().is_some(),
            is_dual_stack: state.pods().any(|pod| {
                let mut addresses = pod.addresses().iter();
                addresses.clone().any(IpAddr::is_ipv4) && addresses.any(IpAddr::is_ipv6)
            }),
        }
    }

    /// Whether a pod is in the namespaces that a peer of this policy means.
    fn is_in(&self, namespaces: &NamespaceMatch, policy: &Policy, pod: &Pod) -> bool {
        let namespace = &pod.name.namespace;
        match namespaces {
            NamespaceMatch::Own => *namespace == policy.name.namespace,
            NamespaceMatch::Selected(selector) => {
                let labels = self.state.namespace_labels(namespace);
                selector.is_everything() || labels.is_some_and(|labels| selector.matches(labels))
            }
        }
    }
}

/// A rule, and where it stands.
struct Place<'a> {
    policy: &'a Policy,
    direction: Direction,
    rule: &'a Rule,
}

impl<'a> Place<'a> {
    fn reference(&self) -> RuleRef {
        let Self { policy, direction, rule } = self;
        rule_ref(policy, *direction, rule)
    }

    /// Path of the rule.
    fn field(&self) -> String {
        format!("spec.{}[{}]", self.direction, self.rule.index)
    }

    /// Path of an item of its `from` or `to`.
    fn peer_field(&self, index: usize) -> String {
        let list = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        format!("{}.{list}[{index}]", self.field())
    }

    /// Path of an item of its `ports`.
    fn port_field(&self, index: usize) -> String {
        format!("{}.ports[{index}]", self.field())
    }

    /// Its peers, if it lists any.
    fn peers(&self) -> &'a [Peer] {
        match &self.rule.peers {
            Peers::All => &[],
            Peers::AnyOf(peers) => peers,
        }
    }
}

/// The findings on one policy.
struct Report<'a> {
    policy: &'a Policy,
    findings: Vec<Finding>,
}

impl Report<'_> {
    fn add(&mut self, check: &'static Check, field: String, message: String) {
        self.add_at(check.level, check, field, message);
    }

    fn add_at(&mut self, level: Level, check: &'static Check, field: String, message: String) {
        let object = ObjectRef { kind: Kind::NetworkPolicy, name: self.policy.name.clone() };
        self.findings.push(Finding { check, level, object, field, message });
    }
}

#[cfg(test)]
mod tests;
