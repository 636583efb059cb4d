//! A ClusterNetworkPolicy after normalisation.

use std::sync::Arc;

use netpol_common::ids::Direction;
use serde::{Deserialize, Serialize};

use super::{Labels, PolicyMode, Rule, Selector};

/// One `ClusterNetworkPolicy`.
///
/// Source: policy.networking.k8s.io/v1alpha2 `ClusterNetworkPolicySpec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.uid`, empty for offline input.
    pub uid: Arc<str>,
    /// `metadata.generation`, which grows with each change of the spec; 0 for offline input.
    pub generation: i64,
    /// Whether it precedes NetworkPolicies or is asked after them.
    pub tier: ClusterTier,
    /// `spec.priority`, 0 to 1000: within a tier a lower value has precedence.
    pub priority: u16,
    /// The pods that it concerns.
    pub subject: Subject,
    /// The rules for connections to these pods, the one with the highest precedence first.
    pub ingress: Arc<[ClusterRule]>,
    /// The rules for connections from these pods, likewise.
    pub egress: Arc<[ClusterRule]>,
    /// Whether it is enforced or only counted (annotation `netpol/mode`).
    pub mode: PolicyMode,
}

impl ClusterPolicy {
    /// The rules of one direction.
    pub fn rules(&self, direction: Direction) -> &[ClusterRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// `spec.tier`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ClusterTier {
    /// Before all NetworkPolicies.
    Admin,
    /// For pods that no NetworkPolicy selects in the direction.
    Baseline,
}

/// `spec.subject`. Host-network pods are never selected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// The namespaces of the pods.
    pub namespaces: Selector,
    /// The pods in these namespaces: all of them if the subject is `namespaces`.
    pub pods: Selector,
}

impl Subject {
    /// Whether pods with these labels, in a namespace with these labels, are selected. The labels of a namespace are `None`
    /// while it is not known; only the empty selector selects it then.
    pub fn selects(&self, namespace: Option<&Labels>, pod: &Labels) -> bool {
        let in_namespace = self.namespaces.is_everything()
            || namespace.is_some_and(|labels| self.namespaces.matches(labels));
        in_namespace && self.pods.matches(pod)
    }
}

/// One item of `spec.ingress` or `spec.egress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRule {
    /// `name`, empty if it has none.
    pub name: Arc<str>,
    /// What happens to connections that the rule matches.
    pub action: Action,
    /// Position, peers and ports. A rule that denies everything has neither peers nor ports in particular.
    pub rule: Rule,
}

/// Effect of a rule on the connections that it matches.
///
/// Source: policy.networking.k8s.io/v1alpha2 `ClusterNetworkPolicyRuleAction`. A rule of a NetworkPolicy accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The connection passes; no further rule is asked.
    Accept,
    /// The connection is dropped; no further rule is asked.
    Deny,
    /// The remaining rules of the tier are skipped; the next tier is asked.
    Pass,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 3] = [Self::Accept, Self::Deny, Self::Pass];

    /// The API's spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "Accept",
            Self::Deny => "Deny",
            Self::Pass => "Pass",
        }
    }
}
