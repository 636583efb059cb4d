//! Rules with an action and a place in the order of precedence.
//!
//! A rule that matches a connection decides it unless a rule of higher precedence has. Precedence falls from tier to tier,
//! within a tier with a rising priority value, among policies of one priority by their names (the API leaves that open), and
//! within a policy with the position in its list: the derived order of [`PolicyRule`] is the order of precedence. The rules
//! of NetworkPolicies need no order: all accept, and their union counts.

use std::fmt;
use std::sync::Arc;

use netpol_common::ids::Direction;
use serde::{Deserialize, Serialize};

use super::peers::PeerSet;
use super::ports::PortSet;
use crate::model::{Action, ClusterTier, Kind, ObjectName, PolicyMode};

/// Groups of policies, the one with the highest precedence first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Policies of cluster administrators that namespaces cannot override.
    Admin,
    /// NetworkPolicies: final for every pod that one of them selects in the direction, because the tier ends with an
    /// implied deny (see [`super::DefaultVerdict`]).
    NetworkPolicy,
    /// Policies of cluster administrators for pods that no NetworkPolicy selects in the direction.
    Baseline,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "Admin",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Baseline => "Baseline",
        })
    }
}

impl From<ClusterTier> for Tier {
    fn from(tier: ClusterTier) -> Self {
        match tier {
            ClusterTier::Admin => Self::Admin,
            ClusterTier::Baseline => Self::Baseline,
        }
    }
}

/// Kinds of objects that rules come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyKind {
    /// networking.k8s.io/v1 `NetworkPolicy`.
    NetworkPolicy,
    /// policy.networking.k8s.io/v1alpha2 `ClusterNetworkPolicy`.
    ClusterNetworkPolicy,
}

impl From<PolicyKind> for Kind {
    fn from(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::NetworkPolicy => Self::NetworkPolicy,
            PolicyKind::ClusterNetworkPolicy => Self::ClusterNetworkPolicy,
        }
    }
}

/// The policy that a rule comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyRef {
    /// Kind of the policy.
    pub kind: PolicyKind,
    /// Namespace and name of the policy; the namespace of a ClusterNetworkPolicy is empty.
    #[serde(flatten)]
    pub name: ObjectName,
}

impl PolicyRef {
    /// A NetworkPolicy.
    pub fn network_policy(name: &ObjectName) -> Self {
        Self { kind: PolicyKind::NetworkPolicy, name: name.clone() }
    }

    /// A ClusterNetworkPolicy.
    pub fn cluster_policy(name: &str) -> Self {
        let name = ObjectName::cluster_scoped(name);
        Self { kind: PolicyKind::ClusterNetworkPolicy, name }
    }
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            PolicyKind::NetworkPolicy => write!(f, "{}", self.name),
            PolicyKind::ClusterNetworkPolicy => write!(f, "ClusterNetworkPolicy {}", self.name),
        }
    }
}

/// One rule of one policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleRef {
    /// The policy.
    pub policy: PolicyRef,
    /// The list of the policy that holds the rule.
    pub direction: Direction,
    /// Position in the API's list, from 0.
    pub index: usize,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[{}]", self.policy, self.direction, self.index)
    }
}

/// Peers, ports and action of one rule; a rule with port names becomes several of these.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyRule {
    /// The tier of the policy.
    pub tier: Tier,
    /// Priority of the policy within its tier: a lower value has precedence. 0 for a NetworkPolicy.
    pub priority: u16,
    /// The rule as the API lists it. Among rules of one tier and priority the name of the policy and then the position in its
    /// list have precedence, which the rules of NetworkPolicies do not need.
    pub source: RuleRef,
    /// Whether the policy is enforced or only counted.
    pub mode: PolicyMode,
    /// Effect on the connections that peers and ports match.
    pub action: Action,
    /// The remote addresses that the rule matches; `None` matches every address.
    pub peers: Option<Arc<PeerSet>>,
    /// The destination ports that the rule matches.
    pub ports: PortSet,
}

impl PolicyRule {
    /// The rule, unless it can never match.
    pub(super) fn shared(self) -> Option<Arc<Self>> {
        let has_no_peers = self.peers.as_ref().is_some_and(|peers| peers.is_empty());
        (!self.ports.is_empty() && !has_no_peers).then(|| Arc::new(self))
    }

    /// Whether it drops connections.
    pub fn denies(&self) -> bool {
        self.action == Action::Deny && self.mode == PolicyMode::Enforce
    }
}

/// The verdict of the rule that decides a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleVerdict {
    /// It passes.
    Accept,
    /// It is dropped.
    Deny,
}

/// Finds the rule that decides a connection among the rules that match it, given in the order of precedence with tier and
/// action. Returns its position in that order; `None` if no rule decides.
///
/// This is the reference for the precedence resolution of `compile`, which works on intervals of ports and shares nothing
/// with it.
pub fn first_decisive(
    matching: impl IntoIterator<Item = (Tier, Action)>,
) -> Option<(usize, Tier, RuleVerdict)> {
    let mut skipped = None;
    for (position, (tier, action)) in matching.into_iter().enumerate() {
        if skipped == Some(tier) {
            continue;
        }
        match action {
            Action::Accept => return Some((position, tier, RuleVerdict::Accept)),
            Action::Deny => return Some((position, tier, RuleVerdict::Deny)),
            Action::Pass => skipped = Some(tier),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use Action::{Accept, Deny, Pass};
    use Tier::{Admin, Baseline, NetworkPolicy};

    use super::*;

    #[track_caller]
    fn check(matching: &[(Tier, Action)], expected: Option<(usize, Tier, RuleVerdict)>) {
        assert_eq!(first_decisive(matching.iter().copied()), expected, "{matching:?}");
    }

    #[test]
    fn the_first_rule_that_accepts_or_denies_decides() {
        check(&[], None);
        check(&[(Admin, Deny), (Admin, Accept)], Some((0, Admin, RuleVerdict::Deny)));
        check(&[(Admin, Accept), (NetworkPolicy, Deny)], Some((0, Admin, RuleVerdict::Accept)));
    }

    #[test]
    fn pass_skips_the_rest_of_its_own_tier_only() {
        check(
            &[(Admin, Pass), (Admin, Deny), (NetworkPolicy, Accept)],
            Some((2, NetworkPolicy, RuleVerdict::Accept)),
        );
        check(&[(Admin, Pass), (Admin, Accept), (Baseline, Pass), (Baseline, Deny)], None);
    }

    #[test]
    fn the_derived_order_is_the_order_of_precedence() {
        let rule = |tier, priority, name, index| PolicyRule {
            tier,
            priority,
            source: RuleRef {
                policy: PolicyRef::cluster_policy(name),
                direction: Direction::Ingress,
                index,
            },
            mode: PolicyMode::Enforce,
            action: Pass,
            peers: None,
            ports: PortSet::All,
        };
        let ordered = [
            rule(Admin, 0, "z", 5),
            rule(Admin, 1, "a", 0),
            rule(Admin, 1, "a", 1),
            rule(Admin, 1, "b", 0),
            rule(NetworkPolicy, 0, "a", 0),
            rule(Baseline, 0, "a", 0),
        ];
        assert!(ordered.is_sorted());
    }
}
