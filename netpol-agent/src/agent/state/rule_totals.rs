//! Connections by rule since the agent started, from the kernel's counts, whose numbers end with the rule.
//!
//! In: what the counts say, again and again, and the names of the rules in force. Out: a sum for each rule in force, and sums for
//! metrics that never go down. Must not: read the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use netpol_common::ids::RuleId;
use netpol_policy::model::{Action, PolicyMode};
use netpol_policy::resolve::{RuleRef, Tier};

/// Rules with series of their own. A node can have thousands of rules in force, which would cost a Prometheus more than they tell.
const MAX_RULES: usize = 50;

/// The connections of a rule in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) struct RuleTotal {
    /// Connections that it has decided.
    pub(in crate::agent) n_connections: u64,
    /// When the agent first had it in force.
    pub(in crate::agent) since: Instant,
}

/// The properties by which a metric sums up rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::agent) struct RuleGroup {
    /// The tier of its policy.
    pub(in crate::agent) tier: Tier,
    /// Its effect.
    pub(in crate::agent) action: Action,
    /// Whether its policy is enforced.
    pub(in crate::agent) mode: PolicyMode,
}

impl RuleGroup {
    /// The groups that decide connections: a rule that passes on does not, and a NetworkPolicy has no rules that deny.
    pub(in crate::agent) fn deciding() -> impl Iterator<Item = Self> {
        let effects = [
            (Tier::Admin, Action::Accept),
            (Tier::Admin, Action::Deny),
            (Tier::NetworkPolicy, Action::Accept),
            (Tier::Baseline, Action::Accept),
            (Tier::Baseline, Action::Deny),
        ];
        effects.into_iter().flat_map(|(tier, action)| {
            [PolicyMode::Enforce, PolicyMode::Audit].map(|mode| Self { tier, action, mode })
        })
    }

    /// Its labels in the metric.
    pub(in crate::agent) const fn labels(self) -> [(&'static str, &'static str); 3] {
        let tier = match self.tier {
            Tier::Admin => "Admin",
            Tier::NetworkPolicy => "NetworkPolicy",
            Tier::Baseline => "Baseline",
        };
        let action = match self.action {
            Action::Accept => "accept",
            Action::Deny => "deny",
            Action::Pass => "pass",
        };
        let mode = match self.mode {
            PolicyMode::Enforce => "enforce",
            PolicyMode::Audit => "audit",
        };
        [("tier", tier), ("action", action), ("mode", mode)]
    }
}

/// The sums.
#[derive(Debug, Default)]
pub(in crate::agent) struct RuleTotals {
    /// What the kernel had counted when it was last read, with the rule that had the number then, and its group.
    latest: BTreeMap<RuleId, Latest>,
    in_force: BTreeMap<RuleRef, RuleTotal>,
    /// Connections of rules that are not in force any more.
    n_of_removed: u64,
    /// The sums of rules with series of their own.
    of_rules: BTreeMap<RuleRef, u64>,
    /// Connections of rules while they had no series of their own.
    n_of_others: u64,
    of_groups: BTreeMap<RuleGroup, u64>,
}

/// What the kernel had counted for a number.
#[derive(Debug, Default)]
struct Latest {
    rule: Option<RuleRef>,
    group: Option<RuleGroup>,
    n: u64,
}

impl RuleTotals {
    /// Records which rules are in force. A rule that comes back begins again.
    pub(in crate::agent) fn set_in_force<'a>(
        &mut self,
        rules: impl Iterator<Item = (RuleId, &'a RuleRef)>,
        now: Instant,
    ) {
        let named: BTreeMap<RuleId, &RuleRef> = rules.collect();
        for (id, Latest { rule, .. }) in &mut self.latest {
            if rule.is_none() {
                *rule = named.get(id).copied().cloned();
            }
        }
        let present: BTreeSet<&RuleRef> = named.values().copied().collect();
        self.in_force.retain(|rule, total| {
            let stays = present.contains(rule);
            if !stays {
                self.n_of_removed += total.n_connections;
            }
            stays
        });
        for rule in present {
            if !self.in_force.contains_key(rule) {
                self.in_force.insert(rule.clone(), RuleTotal { n_connections: 0, since: now });
            }
        }
    }

    /// Adds what the counts have gained. `name` is the rule in force behind a number, `group` its group, unless its policy has been
    /// deleted just now. Returns the numbers that stand for nothing any more: the caller removes their counts.
    pub(in crate::agent) fn observe(
        &mut self,
        counts: BTreeMap<RuleId, u64>,
        name: impl Fn(RuleId) -> Option<RuleRef>,
        group: impl Fn(&RuleRef) -> Option<RuleGroup>,
    ) -> Vec<RuleId> {
        let mut latest = std::mem::take(&mut self.latest);
        let mut gone = Vec::new();
        for (id, n) in counts {
            let before = latest.remove(&id);
            let known = name(id);
            if known.is_none() {
                gone.push(id);
            }
            let before = before.unwrap_or_default();
            // A count that is lower than before began again.
            let gain = if before.n <= n { n - before.n } else { n };
            let group = known.as_ref().and_then(&group).or(before.group);
            let rule = known.or(before.rule);
            if gain > 0 {
                self.add(rule.as_ref(), gain);
                if let Some(group) = group {
                    *self.of_groups.entry(group).or_default() += gain;
                }
            }
            self.latest.insert(id, Latest { rule, group, n });
        }
        for id in &gone {
            self.latest.remove(id);
        }
        gone
    }

    fn add(&mut self, rule: Option<&RuleRef>, gain: u64) {
        match rule.and_then(|rule| self.in_force.get_mut(rule)) {
            Some(total) => total.n_connections += gain,
            None => self.n_of_removed += gain,
        }
        match rule.and_then(|rule| self.own(rule, gain)) {
            Some(rule) => *self.of_rules.entry(rule).or_default() += gain,
            None => self.n_of_others += gain,
        }
    }

    /// The rule, if it has series of its own or gets them: the place of a rule that is not in force any more, or of the one with the
    /// fewest connections, if it has gained more than twice as many.
    fn own(&mut self, rule: &RuleRef, n_gained: u64) -> Option<RuleRef> {
        if self.of_rules.contains_key(rule) || self.of_rules.len() < MAX_RULES {
            return Some(rule.clone());
        }
        let least = self.of_rules.iter().map(|(found, n)| {
            let is_in_force = self.in_force.contains_key(found);
            (is_in_force, *n, found.clone())
        });
        let (is_in_force, n, found) = least.min()?;
        if is_in_force && n_gained <= n.saturating_mul(2) {
            return None;
        }
        self.of_rules.remove(&found);
        Some(rule.clone())
    }

    /// The rules in force.
    pub(in crate::agent) fn in_force(&self) -> impl Iterator<Item = (&RuleRef, &RuleTotal)> {
        self.in_force.iter()
    }

    /// Connections of rules that are not in force any more.
    pub(in crate::agent) const fn n_of_removed(&self) -> u64 {
        self.n_of_removed
    }

    /// Rules that the kernel counts.
    pub(in crate::agent) fn n_counted(&self) -> usize {
        self.latest.len()
    }

    /// Connections that the rules of a group have decided.
    pub(in crate::agent) fn of_group(&self, group: RuleGroup) -> u64 {
        self.of_groups.get(&group).copied().unwrap_or_default()
    }

    /// The sums of rules with series of their own, and under `None` that of all others.
    pub(in crate::agent) fn of_rules(&self) -> impl Iterator<Item = (Option<&RuleRef>, u64)> {
        let others = std::iter::once((None, self.n_of_others));
        self.of_rules.iter().map(|(rule, n)| (Some(rule), *n)).chain(others)
    }
}

#[cfg(test)]
mod tests {
    use netpol_common::ids::Direction;
    use netpol_policy::model::ObjectName;
    use netpol_policy::resolve::PolicyRef;

    use super::*;

    fn rule(index: usize) -> RuleRef {
        let policy = PolicyRef::network_policy(&ObjectName::new("x", "p"));
        RuleRef { policy, direction: Direction::Ingress, index }
    }

    struct Rules {
        totals: RuleTotals,
        named: BTreeMap<RuleId, RuleRef>,
    }

    impl Rules {
        #[expect(clippy::disallowed_methods, reason = "any time")]
        fn set(&mut self, named: &[(u32, usize)]) {
            self.named = named.iter().map(|(id, index)| (RuleId(*id), rule(*index))).collect();
            let named = self.named.iter().map(|(id, rule)| (*id, rule));
            self.totals.set_in_force(named, Instant::now());
        }

        fn observe(&mut self, counts: &[(u32, u64)]) -> Vec<RuleId> {
            let counts = counts.iter().map(|(id, n)| (RuleId(*id), *n)).collect();
            let group = |rule: &RuleRef| {
                let tier = if rule.index == 0 { Tier::Admin } else { Tier::Baseline };
                Some(RuleGroup { tier, action: Action::Deny, mode: PolicyMode::Enforce })
            };
            self.totals.observe(counts, |id| self.named.get(&id).cloned(), group)
        }

        fn n(&self, index: usize) -> Option<u64> {
            let wanted = rule(index);
            let mut found = self.totals.in_force();
            found.find(|(rule, _)| **rule == wanted).map(|(_, total)| total.n_connections)
        }
    }

    fn rules(named: &[(u32, usize)]) -> Rules {
        let mut rules = Rules { totals: RuleTotals::default(), named: BTreeMap::new() };
        rules.set(named);
        rules
    }

    #[test]
    fn a_rule_keeps_its_connections_when_it_gets_another_number() {
        let mut rules = rules(&[(1, 0), (2, 1)]);
        assert_eq!(rules.observe(&[(1, 5)]), []);
        assert_eq!((rules.n(0), rules.n(1)), (Some(5), Some(0)));
        rules.set(&[(3, 0), (4, 1)]);
        // Two more by the old number, before the maps had the new one.
        assert_eq!(rules.observe(&[(1, 7), (3, 1)]), [RuleId(1)]);
        assert_eq!((rules.n(0), rules.n(1)), (Some(8), Some(0)));
        assert_eq!(rules.observe(&[(3, 2)]), []);
        assert_eq!(rules.n(0), Some(9));
    }

    #[test]
    fn connections_of_a_removed_rule_are_a_sum_of_their_own() {
        let mut rules = rules(&[(1, 0), (2, 1)]);
        rules.observe(&[(1, 5), (2, 1)]);
        rules.set(&[(2, 1)]);
        assert_eq!(rules.observe(&[(1, 6), (2, 1)]), [RuleId(1)]);
        assert_eq!((rules.n(0), rules.n(1), rules.totals.n_of_removed()), (None, Some(1), 6));
        // A number of an agent before this one.
        assert_eq!(rules.observe(&[(2, 1), (9, 4)]), [RuleId(9)]);
        assert_eq!(rules.totals.n_of_removed(), 10);
    }

    #[test]
    fn the_sum_of_a_tier_has_the_last_connections_of_removed_rules() {
        let mut rules = rules(&[(1, 0), (2, 1)]);
        rules.observe(&[(1, 5), (2, 1)]);
        rules.set(&[(3, 1)]);
        rules.observe(&[(1, 6), (2, 2), (3, 4)]);
        let of = |tier| {
            let mode = PolicyMode::Enforce;
            rules.totals.of_group(RuleGroup { tier, action: Action::Deny, mode })
        };
        assert_eq!((of(Tier::Admin), of(Tier::Baseline)), (6, 6));
    }

    #[test]
    fn only_so_many_rules_have_series_of_their_own_and_the_rest_is_one() {
        let named: Vec<_> =
            (0..60).map(|index| (100 + u32::try_from(index).unwrap(), index)).collect();
        let mut rules = rules(&named);
        let mut counts: Vec<_> = named.iter().map(|(id, _)| (*id, 10)).collect();
        rules.observe(&counts);
        let others = |rules: &Rules| rules.totals.of_rules().last().unwrap().1;
        assert_eq!((rules.totals.of_rules().count(), others(&rules)), (MAX_RULES + 1, 100));
        counts[59].1 = 31;
        rules.observe(&counts);
        let own = rule(59);
        let found = rules.totals.of_rules().find(|(rule, _)| *rule == Some(&own)).unwrap().1;
        assert_eq!((found, others(&rules)), (21, 100), "twice as many as the least");
        assert_eq!(rules.totals.of_rules().count(), MAX_RULES + 1);
        assert_eq!(rules.n(59), Some(31));
    }
}
