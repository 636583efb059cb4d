//! Checks for rules without effect, and for rules that allow everything.

use netpol_common::ids::Direction;

use super::checks::{
    ALLOWS_EVERYTHING, ALLOWS_NOTHING, INERT_RULES, REPEATED_RULE, SHADOWED_PEER, SHADOWED_RULE,
};
use super::context::LocatedRule;
use super::cover;
use super::finding::Report;
use super::shadow;
use crate::model::{Peers, Policy, Ports, Rule};

/// Checks a policy whose author has not written `policyTypes`.
///
/// Source: networking.k8s.io/v1 `NetworkPolicySpec.policyTypes` (ingress always, egress if there are egress rules).
pub(super) fn check_defaulting(policy: &Policy, report: &mut Report) {
    if policy.policy_types.ingress && policy.ingress.is_empty() && !policy.egress.is_empty() {
        let message = "is missing: the policy isolates for ingress too, and allows no ingress";
        report.add(&ALLOWS_NOTHING, "spec.policyTypes".to_owned(), message.to_owned());
    }
}

pub(super) fn check(policy: &Policy, report: &mut Report) {
    for direction in Direction::ALL {
        let rules = policy.rules(direction);
        let is_isolating = policy.policy_types.contains(direction);
        let field = format!("spec.{direction}");
        match (is_isolating, rules.is_empty()) {
            (_, true) => {}
            (false, false) => report.add(
                &INERT_RULES,
                field,
                format!("has rules, but policyTypes does not contain {direction}: the rules have no effect"),
            ),
            (true, false) => check_rules(policy, direction, rules, report),
        }
    }
}

fn check_rules(policy: &Policy, direction: Direction, rules: &[Rule], report: &mut Report) {
    for rule in rules {
        let located = LocatedRule::new(policy, direction, rule);
        if let (Peers::All, Ports::All) = (&rule.peers, &rule.ports) {
            let message = format!("allows all {direction} traffic");
            report.add(&ALLOWS_EVERYTHING, located.field(), message);
        }
        for (position, other) in shadow::peers(located.peers()) {
            let Some(peer) = located.peers().get(position) else { continue };
            let message = format!("{peer} is included in {}", located.peer_field(other));
            report.add(&SHADOWED_PEER, located.peer_field(position), message);
        }
    }
    for (position, other) in shadow::rules(rules) {
        let (Some(rule), Some(wide)) = (rules.get(position), rules.get(other)) else { continue };
        if is_empty(rule) {
            continue;
        }
        let field = LocatedRule::new(policy, direction, rule).field();
        let other = LocatedRule::new(policy, direction, wide).field();
        if cover::rule(rule, wide) {
            report.add(&REPEATED_RULE, field, format!("allows the same as {other}"));
        } else {
            report.add(&SHADOWED_RULE, field, format!("allows nothing beyond {other}"));
        }
    }
}

/// Whether the rule has no valid peer or no valid port, which the conversion has reported.
const fn is_empty(rule: &Rule) -> bool {
    matches!(&rule.peers, Peers::AnyOf(peers) if peers.is_empty())
        || matches!(&rule.ports, Ports::AnyOf(ports) if ports.is_empty())
}
