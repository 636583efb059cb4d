//! Rules with an action and a place in the order of precedence.
//!
//! A rule that matches a connection decides it unless a rule of higher precedence has. Precedence falls from tier to tier,
//! within a tier with a rising priority value, and within a policy with the position in its list: the derived order of
//! [`PolicyRule`] is the order of precedence. The rules of NetworkPolicies have no order among themselves: all have the same
//! priority and position, all accept, and their union counts.

use std::fmt;
use std::sync::Arc;

use netpol_common::ids::Direction;
use serde::{Deserialize, Serialize};

use super::peers::PeerSet;
use super::ports::PortSet;
use crate::model::{Kind, ObjectName};

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

/// Effect of a rule on the connections that it matches.
///
/// Source: policy.networking.k8s.io `ClusterNetworkPolicy` actions. A rule of a NetworkPolicy accepts.
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

/// Kinds of objects that rules come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyKind {
    /// networking.k8s.io/v1 `NetworkPolicy`.
    NetworkPolicy,
}

impl From<PolicyKind> for Kind {
    fn from(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::NetworkPolicy => Self::NetworkPolicy,
        }
    }
}

/// The policy that a rule comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyRef {
    /// Kind of the policy.
    pub kind: PolicyKind,
    /// Namespace and name of the policy.
    #[serde(flatten)]
    pub name: ObjectName,
}

impl PolicyRef {
    /// A NetworkPolicy.
    pub fn network_policy(name: &ObjectName) -> Self {
        Self { kind: PolicyKind::NetworkPolicy, name: name.clone() }
    }
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind: PolicyKind::NetworkPolicy, name } = self;
        write!(f, "{name}")
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
    /// Position within the policy where positions matter: a lower one has precedence. 0 for a NetworkPolicy.
    pub order: u16,
    /// Effect on the connections that peers and ports match.
    pub action: Action,
    /// The rule as the API lists it.
    pub source: RuleRef,
    /// The remote addresses that the rule matches; `None` matches every address.
    pub peers: Option<Arc<PeerSet>>,
    /// The destination ports that the rule matches.
    pub ports: PortSet,
}

impl PolicyRule {
    /// A rule of a NetworkPolicy; `None` if it can never match.
    pub fn network_policy(
        source: RuleRef,
        peers: Option<PeerSet>,
        ports: PortSet,
    ) -> Option<Arc<Self>> {
        let is_empty = ports.is_empty() || peers.as_ref().is_some_and(PeerSet::is_empty);
        (!is_empty).then(|| {
            Arc::new(Self {
                tier: Tier::NetworkPolicy,
                priority: 0,
                order: 0,
                action: Action::Accept,
                source,
                peers: peers.map(Arc::new),
                ports,
            })
        })
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
        let rule = |tier, priority, order| PolicyRule {
            tier,
            priority,
            order,
            action: Pass,
            source: RuleRef {
                policy: PolicyRef::network_policy(&ObjectName::new("x", "y")),
                direction: Direction::Ingress,
                index: usize::from(order),
            },
            peers: None,
            ports: PortSet::All,
        };
        let ordered = [
            rule(Admin, 0, 5),
            rule(Admin, 1, 0),
            rule(Admin, 1, 1),
            rule(NetworkPolicy, 0, 0),
            rule(Baseline, 0, 0),
        ];
        assert!(ordered.is_sorted());
    }
}
