//! Which rules and which isolations of policies the expectations exercise.
//!
//! In: policies, and judged connections. Out: what no connection depends on. A rule is exercised by a connection that it allows,
//! denies or passes on, the isolation of a policy by a connection that it denies. Must not: print.

use std::collections::BTreeMap;

use netpol_common::ids::Direction;
use netpol_policy::manifests::Location;
use netpol_policy::model::{ClusterPolicy, Object, Policy};
use netpol_policy::resolve::{PolicyRef, RuleRef, cluster_rule_ref, rule_ref};
use netpol_policy::simulate::JudgedConnection;

use crate::input::Input;

/// A part of a policy that an expectation can exercise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// The pods that the policy selects accept, or open, nothing else in this direction.
    Isolation(PolicyRef, Direction),
    Rule(RuleRef),
}

/// The parts of all policies.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    parts: BTreeMap<Part, State>,
}

#[derive(Debug)]
struct State {
    location: Option<Location>,
    is_exercised: bool,
}

impl Coverage {
    /// Adds the policies of an input.
    pub(super) fn add_policies(&mut self, input: &Input) {
        for object in input.objects() {
            let parts = match &object {
                Object::Policy(policy) => parts(policy),
                Object::ClusterPolicy(policy) => cluster_parts(policy),
                Object::Pod(_) | Object::Namespace(_) | Object::Service(_) | Object::Node(_) => {
                    continue;
                }
            };
            let reference = object.object_ref();
            for (part, field) in parts {
                let location = input.manifests.location_of(&reference, &field);
                self.parts.entry(part).or_insert(State { location, is_exercised: false });
            }
        }
    }

    /// Marks what a connection depends on.
    pub(super) fn add(&mut self, judged: &JudgedConnection) {
        let rules = judged.rules.iter().cloned().map(Part::Rule);
        let isolations =
            judged.isolating.iter().map(|(policy, of)| Part::Isolation(policy.clone(), *of));
        for part in rules.chain(isolations) {
            if let Some(state) = self.parts.get_mut(&part) {
                state.is_exercised = true;
            }
        }
    }

    /// The number of exercised parts, and of all.
    pub(super) fn totals(&self) -> (usize, usize) {
        let n_exercised = self.parts.values().filter(|state| state.is_exercised).count();
        (n_exercised, self.parts.len())
    }

    /// Whole percents of the parts, rounded down; 100 without a policy.
    pub(super) fn percent(&self) -> usize {
        let (n_exercised, n_all) = self.totals();
        (n_exercised * 100).checked_div(n_all).unwrap_or(100)
    }

    /// A line for each part that is not exercised, in the order of the names.
    pub(super) fn missing(&self) -> Vec<String> {
        let missing = self.parts.iter().filter(|(_, state)| !state.is_exercised);
        let line = |(part, state): (&Part, &State)| {
            let part = match part {
                Part::Rule(rule) => rule.to_string(),
                Part::Isolation(policy, direction) => format!("{policy} {direction} (isolation)"),
            };
            match &state.location {
                Some(location) => format!("{location}: {part}"),
                None => part,
            }
        };
        missing.map(line).collect()
    }
}

/// The rules of a cluster policy, each with its field.
fn cluster_parts(policy: &ClusterPolicy) -> Vec<(Part, String)> {
    let of_direction = |direction: Direction| {
        policy.rules(direction).iter().map(move |found| {
            let field = format!("spec.{direction}[{}]", found.rule.index);
            (Part::Rule(cluster_rule_ref(policy, direction, &found.rule)), field)
        })
    };
    Direction::ALL.into_iter().flat_map(of_direction).collect()
}

/// The parts of a policy, each with its field.
fn parts(policy: &Policy) -> Vec<(Part, String)> {
    let mut parts = Vec::new();
    for direction in Direction::ALL {
        if !policy.policy_types.contains(direction) {
            continue;
        }
        let name = PolicyRef::network_policy(&policy.name);
        parts.push((Part::Isolation(name, direction), "spec.podSelector".to_owned()));
        for rule in policy.rules(direction) {
            let field = format!("spec.{direction}[{}]", rule.index);
            parts.push((Part::Rule(rule_ref(policy, direction, rule)), field));
        }
    }
    parts
}
