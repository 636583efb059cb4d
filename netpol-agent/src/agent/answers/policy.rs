//! `/policy`: whether one policy is in force on this node, in which revision, and which pods it concerns.

use std::collections::BTreeMap;
use std::time::Instant;

use netpol_common::ids::Direction;
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::model::{ObjectName, Revision};
use netpol_policy::resolve::{PolicyKind, PolicyRef, isolating, selecting};
use serde::{Deserialize, Serialize};

use super::rules::RuleRecord;
use super::status::Protection;
use crate::agent::state::{Agent, FromBefore};

/// One policy on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// The policy.
    pub policy: PolicyRef,
    /// Its `metadata.uid`; `None` if the agent does not know such a policy.
    pub uid: Option<String>,
    /// The state of the object that the agent knows; without `resource_version` for a ClusterNetworkPolicy.
    pub revision: Option<Revision>,
    /// Whether the maps hold the policies of all known objects: with `uid` and `revision`, whether that state is in force.
    pub is_in_force: bool,
    /// If only the policies of an earlier run are in force: how old they are.
    pub from_before: Option<FromBefore>,
    /// Whether it is deleted and stays in force until its namespace is gone.
    pub is_held: bool,
    /// The pods of this node that it concerns.
    pub pods: Vec<PolicyPod>,
    /// The pods of this node whose policies are all in force, by `NAMESPACE/NAME`.
    pub ready: Vec<String>,
    /// Its rules that exceed the capacity of the maps: they allow nothing.
    pub left_out: Vec<String>,
    /// Its rules with the connections that they have decided here.
    pub rules: Vec<RuleRecord>,
}

/// A pod that the policy concerns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPod {
    /// The pod.
    pub pod: ObjectName,
    /// The directions, from the pod's point of view.
    pub directions: Vec<Direction>,
    /// Whether its policies are in force.
    pub protection: Protection,
}

impl<K: Kernel> Agent<K> {
    /// The state of a policy on this node.
    pub(super) fn describe_policy(&mut self, policy: PolicyRef, now: Instant) -> PolicyReport {
        // A kernel that does not give its counts says nothing of rules; the status has the reason.
        let rules = self.describe_rules(now).map(|report| report.rules).unwrap_or_default();
        let status = self.describe();
        let protections: BTreeMap<_, _> = status
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.pod.to_string(), endpoint.protection))
            .collect();
        let mut pods = Vec::new();
        for pod in self.state.endpoints().filter_map(|endpoint| self.state.pod_of(endpoint)) {
            let concerns = |direction: &Direction| {
                let (default, policies) = isolating(&self.state, pod, *direction);
                let mut cluster = selecting(&self.state, pod, *direction, default).into_iter();
                match policy.kind {
                    PolicyKind::NetworkPolicy => {
                        policies.iter().any(|isolating| isolating.name == policy.name)
                    }
                    PolicyKind::ClusterNetworkPolicy => {
                        cluster.any(|selecting| *selecting.name == *policy.name.name)
                    }
                }
            };
            let directions: Vec<_> = Direction::ALL.into_iter().filter(concerns).collect();
            if !directions.is_empty() {
                let protection = protections.get(&pod.name.to_string()).copied();
                let protection = protection.unwrap_or(Protection::Unprotected);
                pods.push(PolicyPod { pod: pod.name.clone(), directions, protection });
            }
        }
        pods.sort_by(|a, b| a.pod.cmp(&b.pod));
        let (uid, revision) = match self.known(&policy) {
            Some((uid, revision)) => (Some(uid), Some(revision)),
            None => (None, None),
        };
        let is_ready = |(pod, protection): (String, Protection)| {
            (protection == Protection::Ready).then_some(pod)
        };
        let left_out = status.policies.into_iter().find(|of| of.policy == policy);
        PolicyReport {
            uid,
            revision,
            is_in_force: status.is_in_force,
            from_before: status.from_before,
            is_held: policy.kind == PolicyKind::NetworkPolicy && self.held.contains(&policy.name),
            pods,
            ready: protections.into_iter().filter_map(is_ready).collect(),
            left_out: left_out.map(|of| of.left_out).unwrap_or_default(),
            rules: rules.into_iter().filter(|rule| rule.rule.policy == policy).collect(),
            policy,
        }
    }

    fn known(&self, policy: &PolicyRef) -> Option<(String, Revision)> {
        match policy.kind {
            PolicyKind::NetworkPolicy => {
                let found = self.state.policies().find(|of| of.name == policy.name)?;
                Some((found.uid.to_string(), found.revision.clone()))
            }
            PolicyKind::ClusterNetworkPolicy => {
                let mut all = self.state.cluster_policies();
                let found = all.find(|of| *of.name == *policy.name.name)?;
                let revision = Revision { generation: found.generation, ..Revision::default() };
                Some((found.uid.to_string(), revision))
            }
        }
    }
}

/// Parses `NAMESPACE/NAME` of a NetworkPolicy, or `NAME` of a ClusterNetworkPolicy.
///
/// # Errors
/// A part of the name is empty.
pub(super) fn question(query: &str) -> Result<PolicyRef, String> {
    let name = query.strip_prefix("name=").ok_or("name is missing")?;
    match name.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(PolicyRef::network_policy(&ObjectName::new(namespace, name)))
        }
        None if !name.is_empty() => Ok(PolicyRef::cluster_policy(name)),
        Some(_) | None => Err(format!("name: {name:?} is neither NAMESPACE/NAME nor NAME")),
    }
}

#[cfg(test)]
mod tests {
    use netpol_policy::model::{Object, Policy, PolicyMode, PolicyTypes, Selector};
    use netpol_policy::source::SourceUpdate;
    use netpol_policy::store::Delta;
    use std::sync::Arc;

    use super::*;
    use crate::agent::tests::{fixture, full_lists, pod, update};

    fn policy(resource_version: &str) -> SourceUpdate {
        let policy = Policy {
            name: ObjectName::new("x", "p"),
            uid: Arc::from("u"),
            revision: Revision { generation: 2, resource_version: Arc::from(resource_version) },
            pod_selector: Selector::everything(),
            policy_types: PolicyTypes { ingress: true, egress: false },
            ingress: Arc::default(),
            egress: Arc::default(),
            mode: PolicyMode::Enforce,
            keeps_connections: false,
        };
        let deltas = vec![Delta::Upsert(Object::Policy(policy))];
        SourceUpdate { deltas, ..SourceUpdate::default() }
    }

    #[test]
    fn a_revision_is_in_force_once_the_maps_follow() {
        let mut fixture = fixture();
        let ask = |fixture: &mut crate::agent::tests::Fixture| {
            let report = fixture.agent.describe_policy(question("name=x/p").unwrap(), fixture.now);
            (report.revision.map(|of| of.resource_version.to_string()), report.is_in_force)
        };
        drop(fixture.agent.update(full_lists()));
        drop(fixture.agent.update(update(pod("a"))));
        fixture.agent.adopt(Vec::new(), fixture.now);
        fixture.agent.sync();
        assert_eq!(ask(&mut fixture), (None, true));
        drop(fixture.agent.update(policy("7")));
        assert_eq!(ask(&mut fixture), (Some("7".to_owned()), false));
        fixture.agent.sync();
        assert_eq!(ask(&mut fixture), (Some("7".to_owned()), true));
        // Only an annotation that does not matter has changed.
        drop(fixture.agent.update(policy("8")));
        fixture.agent.sync();
        assert_eq!(ask(&mut fixture), (Some("8".to_owned()), true));
    }

    #[test]
    fn a_question_names_a_policy_of_either_kind() {
        assert_eq!(question("name=x/p").unwrap().to_string(), "x/p");
        assert_eq!(question("name=p").unwrap(), PolicyRef::cluster_policy("p"));
        assert!(question("name=/p").is_err());
        assert!(question("").is_err());
    }
}
