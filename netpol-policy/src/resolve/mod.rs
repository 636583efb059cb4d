//! What the policies mean for one endpoint.
//!
//! In: the cluster's state and a pod. Out: an [`EndpointPolicy`]: for each direction whether the pod is isolated
//! and which grants open it, with port names resolved. [`evaluate`] is the reference semantics: it answers one
//! connection straight from the objects and shares no code with the rest. Must not: know identities or maps.

mod evaluate;
mod isolation;
mod label_classes;
mod peers;
mod ports;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use netpol_common::ids::Direction;
use serde::{Deserialize, Serialize};

pub use evaluate::{
    Connection, Decision, EndDecision, EndVerdict, Miss, MissReason, Remote,
    allows_unknown_backend, evaluate, evaluate_end, is_own_node, is_service,
};
pub use isolation::{Isolation, isolating};
pub use peers::{PeerBase, PeerSet, PortFilter};
pub use ports::{PortSet, TransportPorts};

use crate::model::{ObjectName, Peers, Pod, Policy, Rule};
use crate::store::ClusterState;
use peers::Numberings;

/// One rule of one policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleRef {
    /// The policy.
    pub policy: ObjectName,
    /// Which of its lists.
    pub direction: Direction,
    /// Position in the API's list, from 0.
    pub index: usize,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[{}]", self.policy, self.direction, self.index)
    }
}

/// What the policies mean for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// Towards the pod.
    pub ingress: DirectionPolicy,
    /// From the pod.
    pub egress: DirectionPolicy,
}

impl EndpointPolicy {
    /// One direction.
    pub fn direction(&self, direction: Direction) -> &DirectionPolicy {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// One direction of an [`EndpointPolicy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectionPolicy {
    /// Whether, and how strictly, the pod is isolated.
    pub isolation: Isolation,
    /// Connections that a change forbids live on: so say all policies that isolate the pod.
    pub keeps_flows: bool,
    /// What is allowed all the same: their union. Empty when not isolated.
    pub allow_rules: Vec<Arc<AllowRule>>,
}

/// Peers and ports that one rule opens; a rule with port names makes several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AllowRule {
    /// The rule, for explanations.
    pub rule: RuleRef,
    /// The other end; `None` is everybody.
    pub peers: Option<Arc<PeerSet>>,
    /// The destination ports.
    pub ports: PortSet,
}

/// Resolves endpoints; remembers what the policies open, until it is told that one has changed.
#[derive(Debug, Default)]
pub struct Resolver {
    shared: BTreeMap<RuleRef, Vec<Arc<AllowRule>>>,
    /// Ingress rules with port names, by what the names are on the pod.
    by_pod: BTreeMap<RuleRef, BTreeMap<PortSet, Option<Arc<AllowRule>>>>,
    /// Egress rules with port names: they depend on how pods number these.
    named: BTreeMap<RuleRef, Numberings>,
}

impl Resolver {
    /// Forgets a policy that has changed or is gone.
    pub fn forget(&mut self, policy: &ObjectName) {
        let first = RuleRef { policy: policy.clone(), direction: Direction::ALL[0], index: 0 };
        let of_policy = |rule: &RuleRef| rule.policy == *policy;
        let rules = self.shared.range(first.clone()..).map(|(rule, _)| rule);
        let gone: Vec<RuleRef> = rules.take_while(|rule| of_policy(rule)).cloned().collect();
        for rule in gone {
            self.shared.remove(&rule);
            self.named.remove(&rule);
        }
        let rules = self.by_pod.range(first..).map(|(rule, _)| rule);
        let gone: Vec<RuleRef> = rules.take_while(|rule| of_policy(rule)).cloned().collect();
        for rule in gone {
            self.by_pod.remove(&rule);
        }
    }

    /// Finds out which rules open something else since label classes came or went, and forgets them. Returns their policies.
    pub fn forget_renumbered(&mut self, state: &ClusterState) -> BTreeSet<ObjectName> {
        let mut renumbered = BTreeSet::new();
        for (reference, numberings) in &self.named {
            let Some(policy) = state.policy(&reference.policy) else { continue };
            let mut rules = policy.rules(reference.direction).iter();
            let rule = rules.find(|rule| rule.index == reference.index);
            if rule.is_some_and(|rule| Numberings::new(state, &rule.ports) != *numberings) {
                renumbered.insert(reference.policy.clone());
            }
        }
        for policy in &renumbered {
            self.forget(policy);
        }
        renumbered
    }

    /// What the policies mean for a pod.
    pub fn resolve(&mut self, state: &ClusterState, pod: &Pod) -> EndpointPolicy {
        EndpointPolicy {
            ingress: self.resolve_direction(state, pod, Direction::Ingress),
            egress: self.resolve_direction(state, pod, Direction::Egress),
        }
    }

    fn resolve_direction(
        &mut self,
        state: &ClusterState,
        pod: &Pod,
        direction: Direction,
    ) -> DirectionPolicy {
        let (isolation, policies) = isolating(state, pod, direction);
        let keeps_flows =
            !policies.is_empty() && policies.iter().all(|policy| policy.keeps_connections);
        let mut allow_rules = Vec::new();
        for policy in policies {
            for rule in policy.rules(direction) {
                self.collect_allow_rules(state, policy, direction, rule, pod, &mut allow_rules);
            }
        }
        DirectionPolicy { isolation, keeps_flows, allow_rules }
    }

    fn collect_allow_rules(
        &mut self,
        state: &ClusterState,
        policy: &Policy,
        direction: Direction,
        rule: &Rule,
        pod: &Pod,
        allow_rules: &mut Vec<Arc<AllowRule>>,
    ) {
        let reference = RuleRef { policy: policy.name.clone(), direction, index: rule.index };
        let has_names = ports::has_names(&rule.ports);
        if has_names && direction == Direction::Ingress {
            // The destination is the pod itself: its own names, for all pods that number them alike.
            let open = ports::resolve_on(&rule.ports, pod);
            let by_ports = self.by_pod.entry(reference.clone()).or_default();
            let known = by_ports.entry(open).or_insert_with_key(|open| {
                allow_rule(reference, base(policy, rule).map(PeerSet::unfiltered), open.clone())
            });
            allow_rules.extend(known.clone());
            return;
        }
        if let Some(known) = self.shared.get(&reference) {
            allow_rules.extend_from_slice(known);
            return;
        }
        let mut found = Vec::new();
        let numbered = ports::numbered(&rule.ports);
        let peers = base(policy, rule).map(PeerSet::unfiltered);
        found.extend(allow_rule(reference.clone(), peers, numbered));
        if has_names {
            // The destination is the peer: every peer pod resolves the names for itself.
            let base = base(policy, rule).unwrap_or(PeerBase::Everybody);
            let numberings = Numberings::new(state, &rule.ports);
            for (peers, open) in numberings.split(&base) {
                found.extend(allow_rule(reference.clone(), Some(peers), open));
            }
            self.named.insert(reference.clone(), numberings);
        }
        allow_rules.extend_from_slice(&found);
        self.shared.insert(reference, found);
    }
}

/// The peers of a rule, whatever their port names are; `None` is everybody.
pub fn peer_set(policy: &Policy, rule: &Rule) -> Option<PeerSet> {
    base(policy, rule).map(PeerSet::unfiltered)
}

/// The peers of a rule; `None` is everybody.
fn base(policy: &Policy, rule: &Rule) -> Option<PeerBase> {
    match &rule.peers {
        Peers::All => None,
        Peers::AnyOf(peers) => Some(PeerBase::any_of(&policy.name.namespace, peers)),
    }
}

fn allow_rule(rule: RuleRef, peers: Option<PeerSet>, ports: PortSet) -> Option<Arc<AllowRule>> {
    let is_empty = ports.is_empty() || peers.as_ref().is_some_and(PeerSet::is_empty);
    (!is_empty).then(|| Arc::new(AllowRule { rule, peers: peers.map(Arc::new), ports }))
}
