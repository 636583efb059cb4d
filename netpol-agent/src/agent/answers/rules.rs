//! The rules in force with the connections that they have decided.

use std::time::Instant;

use netpol_common::maps::MAX_RULE_COUNTS;
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::model::Action;
use netpol_policy::resolve::{RuleInWords, RuleRef, Tier, rule_in_words};
use serde::{Deserialize, Serialize};

use crate::agent::state::Agent;
use crate::agent::state::rule_totals::RuleGroup;

/// The rules in force on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleReport {
    /// Every rule of every policy that concerns a pod of this node.
    pub rules: Vec<RuleRecord>,
    /// Connections of rules that are not in force any more, since the agent started.
    pub n_connections_of_removed: u64,
    /// Rules of which the kernel holds a count.
    pub n_counted: usize,
    /// Rules that the kernel can count. When as many are counted, further rules are not.
    pub capacity: u32,
}

/// A rule in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRecord {
    /// The rule: its policy, direction, and position in the policy's list.
    #[serde(flatten)]
    pub rule: RuleRef,
    /// The name of the rule, empty if it has none. Only rules of ClusterNetworkPolicies have names.
    pub name: String,
    /// Its effect; `None` if its policy has been deleted just now.
    pub action: Option<Action>,
    /// The tier of its policy.
    pub tier: Option<Tier>,
    /// Connections that it has decided on this node: begun if it accepts, attempted if it denies.
    pub n_connections: u64,
    /// Seconds for which it has been counted: since it came into force here, or since the agent started.
    pub counted_s: u64,
}

impl<K: Kernel> Agent<K> {
    /// Records which rules are in force. Costs nothing if no rule is new.
    pub fn record_rules(&mut self, now: Instant) {
        let n_numbered = self.compiled.n_numbered_rules();
        if self.n_numbered_rules != n_numbered {
            self.n_numbered_rules = n_numbered;
            self.rule_totals.set_in_force(self.compiled.rules(), now);
        }
    }

    /// Adds what the kernel's counts have gained.
    ///
    /// # Errors
    /// The counts cannot be read, or those of removed rules not be removed.
    pub(in crate::agent) fn observe_rules(&mut self, now: Instant) -> Result<(), K::Error> {
        let Self { kernel, compiled, rule_totals, state, .. } = self;
        let group = |rule: &RuleRef| {
            let RuleInWords { tier, action, mode, .. } = rule_in_words(state, rule)?;
            Some(RuleGroup { tier, action, mode })
        };
        let name = |id| compiled.rule(id).cloned();
        let gone = rule_totals.observe(kernel.rule_counts()?, name, group);
        // After the counts, so that the last ones of removed rules are theirs.
        rule_totals.set_in_force(compiled.rules(), now);
        kernel.remove_rule_counts(&gone)
    }

    /// The rules in force with their connections.
    ///
    /// # Errors
    /// Those of reading the counts.
    pub fn describe_rules(&mut self, now: Instant) -> Result<RuleReport, K::Error> {
        self.observe_rules(now)?;
        let records = self.rule_totals.in_force().map(|(rule, total)| {
            let listed = rule_in_words(&self.state, rule);
            RuleRecord {
                rule: rule.clone(),
                name: listed.map(|listed| listed.name.to_owned()).unwrap_or_default(),
                action: listed.map(|listed| listed.action),
                tier: listed.map(|listed| listed.tier),
                n_connections: total.n_connections,
                counted_s: now.saturating_duration_since(total.since).as_secs(),
            }
        });
        Ok(RuleReport {
            rules: records.collect(),
            n_connections_of_removed: self.rule_totals.n_of_removed(),
            n_counted: self.rule_totals.n_counted(),
            capacity: MAX_RULE_COUNTS,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use netpol_common::ids::RuleId;
    use netpol_policy::compile::MapState;
    use netpol_policy::model::{
        Object, ObjectName, Peers, Policy, PolicyMode, PolicyTypes, Ports, Revision, Rule, Selector,
    };
    use netpol_policy::source::SourceUpdate;
    use netpol_policy::store::Delta;

    use super::*;
    use crate::agent::state::registry::Registry;
    use crate::agent::tests::{FakeKernel, Fixture, fixture, full_lists, pod, update};
    use crate::telemetry::render;

    /// A policy that allows all ingress to every pod.
    fn policy(name: &str) -> Delta {
        let everything = Rule { index: 0, peers: Peers::All, ports: Ports::All };
        Delta::Upsert(Object::Policy(Policy {
            name: ObjectName::new("x", name),
            uid: Arc::from(name),
            revision: Revision::default(),
            pod_selector: Selector::everything(),
            policy_types: PolicyTypes { ingress: true, egress: false },
            ingress: Arc::from([everything]),
            egress: Arc::default(),
            mode: PolicyMode::Enforce,
            keeps_connections: false,
        }))
    }

    fn number(agent: &Agent<FakeKernel>, name: &str) -> RuleId {
        let rules = agent.compiled.rules();
        let found: Vec<_> =
            rules.filter(|(_, rule)| *rule.policy.name.name == *name).map(|(id, _)| id).collect();
        let [id] = found.as_slice() else { panic!("one rule of {name}: {found:?}") };
        *id
    }

    fn with_pod_and(policies: &[&str]) -> Fixture {
        let mut fixture = fixture();
        drop(fixture.agent.update(full_lists()));
        let deltas = policies.iter().map(|name| policy(name)).chain([pod("a")]).collect();
        drop(fixture.agent.update(SourceUpdate { deltas, ..SourceUpdate::default() }));
        drop(fixture.add());
        fixture
    }

    #[test]
    fn rules_are_listed_with_their_connections_also_those_without_any() {
        let mut fixture = with_pod_and(&["p"]);
        let begin = fixture.now;
        fixture.agent.record_rules(begin);
        let report = fixture.agent.describe_rules(begin).unwrap();
        let [record] = report.rules.as_slice() else { panic!("{report:?}") };
        assert_eq!(record.rule.to_string(), "x/p ingress[0]");
        assert_eq!((record.action, record.tier), (Some(Action::Accept), Some(Tier::NetworkPolicy)));
        assert_eq!((record.n_connections, record.counted_s), (0, 0));

        let id = number(&fixture.agent, "p");
        fixture.agent.kernel.rule_counts = BTreeMap::from([(id, 3)]);
        let report = fixture.agent.describe_rules(begin + Duration::from_secs(9)).unwrap();
        let counted: Vec<_> =
            report.rules.iter().map(|of| (of.n_connections, of.counted_s)).collect();
        assert_eq!((counted.as_slice(), report.n_counted), ([(3, 9)].as_slice(), 1));
        let text = serde_json::to_value(&report).unwrap();
        assert_eq!(text["rules"][0]["policy"]["name"], "p");
        assert_eq!(text["rules"][0]["n_connections"], 3);
        let metrics = render(fixture.agent.metrics(begin).unwrap(), None).unwrap();
        let line = "netpol_tier_connections_total{tier=\"NetworkPolicy\",action=\"accept\",mode=\"enforce\"} 3";
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }

    #[test]
    fn an_agent_never_gives_a_rule_a_number_that_its_predecessor_used() {
        let earlier = with_pod_and(&["p", "q"]);
        let numbers = ["p", "q"].map(|name| number(&earlier.agent, name));
        let maps: MapState = earlier.agent.kernel.maps.clone();
        let held = maps.allow.values().flat_map(|map| map.values()).map(|value| value.rule).max();
        let kernel = FakeKernel { maps: maps.clone(), ..FakeKernel::default() };
        let registry = Registry::open(&earlier.dir.path().join("endpoints.json"), |_| None);
        let agent = Agent::new(kernel, maps, registry.unwrap());
        let Fixture { now, dir, .. } = earlier;
        let mut fixture = Fixture { agent, now, dir };
        drop(fixture.agent.update(full_lists()));
        drop(fixture.agent.update(update(policy("other"))));
        drop(fixture.agent.update(update(pod("a"))));
        drop(fixture.add());
        assert!(Some(number(&fixture.agent, "other")) > held, "{numbers:?}");
    }
}
