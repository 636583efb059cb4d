//! The verdict on connections that no rule decides, and the policies that it follows from.

use netpol_common::ids::Direction;

use crate::model::{ClusterPolicy, Pod, Policy, PolicyMode};
use crate::resolve::Tier;
use crate::store::ClusterState;

/// The verdict on a connection that no rule of any tier decides, in one direction of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DefaultVerdict {
    /// No NetworkPolicy isolates the pod: the connection passes.
    Allow,
    /// Only audited NetworkPolicies isolate the pod: the connection passes and is reported.
    Audit,
    /// A NetworkPolicy isolates the pod: the connection is dropped.
    Deny,
}

/// Returns the default verdict for `pod` in `direction`, with the NetworkPolicies that isolate the pod: the enforced ones
/// if there is any, else the audited ones.
///
/// A pod is isolated in a direction when at least one policy of its namespace selects it and has that policy type.
/// Host-network pods are never isolated.
///
/// Source: networking.k8s.io/v1 `NetworkPolicySpec.podSelector` and `policyTypes` (defaulted in `model::convert`).
pub fn isolating<'a>(
    state: &'a ClusterState,
    pod: &Pod,
    direction: Direction,
) -> (DefaultVerdict, Vec<&'a Policy>) {
    if pod.host_network {
        return (DefaultVerdict::Allow, Vec::new());
    }
    let (audited, enforced): (Vec<_>, Vec<_>) = state
        .policies_in(&pod.name.namespace)
        .filter(|policy| {
            policy.policy_types.contains(direction) && policy.pod_selector.matches(&pod.labels)
        })
        .partition(|policy| policy.mode == PolicyMode::Audit);
    if !enforced.is_empty() {
        (DefaultVerdict::Deny, enforced)
    } else if audited.is_empty() {
        (DefaultVerdict::Allow, Vec::new())
    } else {
        (DefaultVerdict::Audit, audited)
    }
}

/// Returns the ClusterNetworkPolicies with rules for `pod` in `direction`, in their order of precedence. `default` is the
/// verdict from [`isolating`]: enforced NetworkPolicies are final for the pod, so the Baseline tier is not asked. Host-network
/// pods have none.
///
/// Source: policy.networking.k8s.io/v1alpha2 `ClusterNetworkPolicySpec.tier`, `.priority` and `.subject`.
pub fn selecting<'a>(
    state: &'a ClusterState,
    pod: &Pod,
    direction: Direction,
    default: DefaultVerdict,
) -> Vec<&'a ClusterPolicy> {
    if pod.host_network {
        return Vec::new();
    }
    let is_asked = |policy: &&ClusterPolicy| {
        Tier::from(policy.tier) < Tier::NetworkPolicy || default != DefaultVerdict::Deny
    };
    let namespace = state.namespace_labels(&pod.name.namespace);
    let mut policies: Vec<&ClusterPolicy> = state
        .cluster_policies()
        .filter(|policy| !policy.rules(direction).is_empty())
        .filter(is_asked)
        .filter(|policy| policy.subject.selects(namespace, &pod.labels))
        .collect();
    // Stable: policies of one priority keep the order of their names.
    policies.sort_by_key(|policy| (policy.tier, policy.priority));
    policies
}
