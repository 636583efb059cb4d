//! Rules that have no effect, or too much.

use netpol_common::ids::Direction;

use super::checks::{
    ALLOWS_EVERYTHING, ALLOWS_NOTHING, INERT_RULES, REPEATED_RULE, SHADOWED_PEER, SHADOWED_RULE,
};
use super::{Place, Report, cover};
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
                format!("policyTypes leaves out {direction}: these rules have no effect"),
            ),
            (true, true) => report.add(
                &ALLOWS_NOTHING,
                field,
                format!("isolates for {direction} and allows nothing"),
            ),
            (true, false) => check_rules(policy, direction, rules, report),
        }
    }
}

fn check_rules(policy: &Policy, direction: Direction, rules: &[Rule], report: &mut Report<'_>) {
    for (position, rule) in rules.iter().enumerate() {
        let place = Place { policy, direction, rule };
        if let (Peers::All, Ports::All) = (&rule.peers, &rule.ports) {
            let message = format!("allows all {direction} traffic");
            report.add(&ALLOWS_EVERYTHING, place.field(), message);
        }
        check_peers(&place, report);
        if is_empty(rule) {
            continue;
        }
        let mut others = rules.iter().enumerate().filter(|(other, _)| *other != position);
        // Of two rules that include each other, only the later one is told.
        let shadow = others.find(|(other, wide)| {
            cover::rule(wide, rule) && (*other < position || !cover::rule(rule, wide))
        });
        if let Some((_, wide)) = shadow {
            let other = Place { policy, direction, rule: wide }.field();
            if cover::rule(rule, wide) {
                report.add(&REPEATED_RULE, place.field(), format!("says the same as {other}"));
            } else {
                let message = format!("allows nothing that {other} does not allow");
                report.add(&SHADOWED_RULE, place.field(), message);
            }
        }
    }
}

/// Whether nothing of its peers or ports was understood: that has been told.
const fn is_empty(rule: &Rule) -> bool {
    matches!(&rule.peers, Peers::AnyOf(peers) if peers.is_empty())
        || matches!(&rule.ports, Ports::AnyOf(ports) if ports.is_empty())
}

fn check_peers(place: &Place<'_>, report: &mut Report<'_>) {
    let peers = place.peers();
    for (position, peer) in peers.iter().enumerate() {
        let wide = peers.iter().enumerate().find(|(other, wide)| {
            *other != position
                && cover::peer(wide, peer)
                && (*other < position || !cover::peer(peer, wide))
        });
        if let Some((other, _)) = wide {
            let message = format!("{peer} is included in {}", place.peer_field(other));
            report.add(&SHADOWED_PEER, place.peer_field(position), message);
        }
    }
}
