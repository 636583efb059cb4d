//! Which policies isolate a pod.

use netpol_common::ids::Direction;

use crate::model::{Pod, Policy, PolicyMode};
use crate::store::ClusterState;

/// Whether a pod is isolated in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// No policy selects it: everything passes.
    None,
    /// Only audited policies select it: what they do not allow passes and is reported.
    Audited,
    /// Only what a rule allows passes.
    Enforced,
}

/// Returns how `pod` is isolated in `direction`, with the policies that are the reason: the enforced ones if there
/// is any, else the audited ones.
///
/// A pod is isolated in a direction when at least one policy of its namespace selects it and has that policy type.
/// Host-network pods never are, and pods that have ended neither.
///
/// Source: networking.k8s.io/v1 `NetworkPolicySpec.podSelector` and `policyTypes` (defaulted in `model::convert`).
pub fn isolating<'a>(
    state: &'a ClusterState,
    pod: &Pod,
    direction: Direction,
) -> (Isolation, Vec<&'a Policy>) {
    if pod.host_network {
        return (Isolation::None, Vec::new());
    }
    let (audited, enforced): (Vec<_>, Vec<_>) = state
        .policies_in(&pod.name.namespace)
        .filter(|policy| {
            policy.policy_types.contains(direction) && policy.pod_selector.matches(&pod.labels)
        })
        .partition(|policy| policy.mode == PolicyMode::Audit);
    if !enforced.is_empty() {
        (Isolation::Enforced, enforced)
    } else if audited.is_empty() {
        (Isolation::None, Vec::new())
    } else {
        (Isolation::Audited, audited)
    }
}
