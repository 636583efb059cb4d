//! Checks for rules without effect, and for rules that allow everything.

use netpol_common::ids::Direction;

use super::checks::{
    ALLOWS_EVERYTHING, ALLOWS_NOTHING, INERT_RULES, REPEATED_RULE, SHADOWED_PEER, SHADOWED_RULE,
};
use super::context::LocatedRule;
use super::cover;
use super::finding::Report;
use crate::model::{Peers, Policy, Ports, Rule};

pub(super) fn check(policy: &Policy, report: &mut Report<'_>) {
    for direction in Direction::ALL {
        let rules = policy.rules(direction);
        let is_isolating = policy.policy_types.contains(direction);
        let field = format!("spec.{direction}");
        match (is_isolating, rules.is_empty()) {
            (false, true) => {}
            (false, false) => report.add(
                &INERT_RULES,
                field,
                format!("has rules, but policyTypes does not contain {direction}: the rules have no effect"),
            ),
            (true, true) => report.add(
                &ALLOWS_NOTHING,
                field,
                format!("is empty: the policy isolates for {direction} and allows nothing"),
            ),
            (true, false) => check_rules(policy, direction, rules, report),
        }
    }
}

fn check_rules(policy: &Policy, direction: Direction, rules: &[Rule], report: &mut Report<'_>) {
    for (position, rule) in rules.iter().enumerate() {
        let located = LocatedRule { policy, direction, spec: rule };
        if let (Peers::All, Ports::All) = (&rule.peers, &rule.ports) {
            let message = format!("allows all {direction} traffic");
            report.add(&ALLOWS_EVERYTHING, located.field(), message);
        }
        check_peers(&located, report);
        if is_empty(rule) {
            continue;
        }
        let mut others = rules.iter().enumerate().filter(|(other, _)| *other != position);
        // Of two equivalent rules, only the later one is reported.
        let shadow = others.find(|(other, wide)| {
            cover::rule(wide, rule) && (*other < position || !cover::rule(rule, wide))
        });
        if let Some((_, wide)) = shadow {
            let other = LocatedRule { policy, direction, spec: wide }.field();
            if cover::rule(rule, wide) {
                report.add(&REPEATED_RULE, located.field(), format!("allows the same as {other}"));
            } else {
                let message = format!("allows nothing beyond {other}");
                report.add(&SHADOWED_RULE, located.field(), message);
            }
        }
    }
}

/// Whether the rule has no valid peer or no valid port, which the conversion has reported.
const fn is_empty(rule: &Rule) -> bool {
    matches!(&rule.peers, Peers::AnyOf(peers) if peers.is_empty())
        || matches!(&rule.ports, Ports::AnyOf(ports) if ports.is_empty())
}

fn check_peers(rule: &LocatedRule<'_>, report: &mut Report<'_>) {
    let peers = rule.peers();
    for (position, peer) in peers.iter().enumerate() {
        let wide = peers.iter().enumerate().find(|(other, wide)| {
            *other != position
                && cover::peer(wide, peer)
                && (*other < position || !cover::peer(peer, wide))
        });
        if let Some((other, _)) = wide {
            let message = format!("{peer} is included in {}", rule.peer_field(other));
            report.add(&SHADOWED_PEER, rule.peer_field(position), message);
        }
    }
}
