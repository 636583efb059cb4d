//! The policies of the page: their list, and those that an explanation names.

use netpol_common::ids::Direction;
use netpol_policy::model::{ClusterTier, Kind, ObjectName, ObjectRef, PolicyMode};
use netpol_policy::resolve::{PolicyKind, PolicyRef};
use netpol_policy::simulate::{DirectionExplanation, Explanation, RuleExplanation};
use netpol_policy::store::ClusterState;
use serde::Serialize;

use super::answers::{NamedPolicy, PolicyName};

/// A policy in the list of the page.
#[derive(Debug, Serialize)]
pub(super) struct PolicySummary {
    kind: &'static str,
    namespace: String,
    name: String,
    /// `Admin`, `NetworkPolicy` or `Baseline`.
    tier: &'static str,
    /// Of a ClusterNetworkPolicy.
    priority: Option<u16>,
    is_audited: bool,
    directions: Vec<&'static str>,
}

const fn kind_in_words(kind: PolicyKind) -> &'static str {
    match kind {
        PolicyKind::NetworkPolicy => "NetworkPolicy",
        PolicyKind::ClusterNetworkPolicy => "ClusterNetworkPolicy",
    }
}

/// The policy that a request names.
pub(super) fn reference(name: &PolicyName) -> Option<ObjectRef> {
    let PolicyName { kind, namespace, name } = name;
    let kind = [PolicyKind::NetworkPolicy, PolicyKind::ClusterNetworkPolicy]
        .into_iter()
        .find(|known| kind_in_words(*known) == kind)?;
    Some(ObjectRef { kind: Kind::from(kind), name: ObjectName::new(namespace, name) })
}

/// All policies: those of the Admin tier, NetworkPolicies, those of the Baseline tier.
pub(super) fn summaries(state: &ClusterState) -> Vec<PolicySummary> {
    let of_tier = |wanted: ClusterTier| {
        let policies = state.cluster_policies().filter(move |policy| policy.tier == wanted);
        let mut policies: Vec<_> = policies.collect();
        policies.sort_by_key(|policy| policy.priority);
        policies.into_iter().map(move |policy| PolicySummary {
            kind: kind_in_words(PolicyKind::ClusterNetworkPolicy),
            namespace: String::new(),
            name: policy.name.to_string(),
            tier: match policy.tier {
                ClusterTier::Admin => "Admin",
                ClusterTier::Baseline => "Baseline",
            },
            priority: Some(policy.priority),
            is_audited: policy.mode == PolicyMode::Audit,
            directions: in_words(|direction| !policy.rules(direction).is_empty()),
        })
    };
    let policies = state.policies().map(|policy| PolicySummary {
        kind: kind_in_words(PolicyKind::NetworkPolicy),
        namespace: policy.name.namespace.to_string(),
        name: policy.name.name.to_string(),
        tier: "NetworkPolicy",
        priority: None,
        is_audited: policy.mode == PolicyMode::Audit,
        directions: in_words(|direction| policy.policy_types.contains(direction)),
    });
    of_tier(ClusterTier::Admin).chain(policies).chain(of_tier(ClusterTier::Baseline)).collect()
}

fn in_words(has: impl Fn(Direction) -> bool) -> Vec<&'static str> {
    let names = [(Direction::Ingress, "ingress"), (Direction::Egress, "egress")];
    names.into_iter().filter(|(direction, _)| has(*direction)).map(|(_, name)| name).collect()
}

/// The policies and rules of an explanation, the deciding ones first.
pub(super) fn named(explanation: &Explanation) -> Vec<NamedPolicy> {
    let mut found: Vec<NamedPolicy> = Vec::new();
    for end in [&explanation.egress, &explanation.ingress].into_iter().flatten() {
        // A connection that is denied is decided by the end that denies it.
        let is_deciding = explanation.is_allowed || !end.is_allowed;
        for mut policy in of_direction(end) {
            policy.is_deciding &= is_deciding;
            if !found.contains(&policy) {
                found.push(policy);
            }
        }
    }
    found.sort_by_key(|policy| !policy.is_deciding);
    found
}

/// The policies and rules of one direction. Rules that match decide; without one, the policies that isolate do.
fn of_direction(end: &DirectionExplanation) -> Vec<NamedPolicy> {
    let DirectionExplanation {
        isolating,
        cluster_policies,
        denying,
        passing,
        allowing,
        possible,
        misses,
        ..
    } = end;
    let rule = |of: &RuleExplanation, effect| NamedPolicy {
        rule: Some(format!("{}[{}]", of.rule.direction, of.rule.index)),
        ..policy(&of.rule.policy, effect)
    };
    let denying = denying.iter().map(|of| rule(of, "denies"));
    let allowing = allowing.iter().map(|of| rule(of, "allows"));
    let possible = possible.iter().map(|of| rule(of, "allows some addresses"));
    let mut found: Vec<NamedPolicy> = denying.chain(allowing).chain(possible).collect();
    for rule in &mut found {
        rule.is_deciding = true;
    }
    let has_deciding = !found.is_empty();
    found.extend(passing.iter().map(|of| rule(of, "passes on")));
    found.extend(misses.iter().map(|of| rule(of, "does not match")));
    let isolating = isolating
        .iter()
        .map(|of| NamedPolicy { is_deciding: !has_deciding, ..policy(of, "isolates") });
    let concerning = cluster_policies.iter().map(|of| policy(of, "concerns the pod"));
    // A policy that one of its rules names already is not named again.
    let name = |of: &NamedPolicy| (of.kind, of.namespace.clone(), of.name.clone());
    let named: Vec<_> = found.iter().map(name).collect();
    let others = isolating.chain(concerning);
    found.extend(others.filter(|of| of.is_deciding || !named.contains(&name(of))));
    found
}

fn policy(policy: &PolicyRef, effect: &'static str) -> NamedPolicy {
    NamedPolicy {
        kind: kind_in_words(policy.kind),
        namespace: policy.name.namespace.to_string(),
        name: policy.name.name.to_string(),
        effect,
        rule: None,
        is_deciding: false,
    }
}
