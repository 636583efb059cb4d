//! The verdict on connections that no rule decides, and the policies that it follows from.

use netpol_common::ids::Direction;

use crate::model::{Pod, Policy, PolicyMode};
use crate::store::ClusterState;

/// The verdict on a connection that no rule of any tier decides, in one direction of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
