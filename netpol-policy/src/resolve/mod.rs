//! The policies of one endpoint as ordered rules.
//!
//! In: the cluster's state and a pod. Out: an [`EndpointPolicy`]: for each direction the rules in their order of precedence,
//! with port names resolved ([`PolicyRule`]), and the verdict where no rule decides ([`DefaultVerdict`]). [`evaluate`] is
//! the reference semantics: it judges one connection from the objects; its module doc lists what it shares with the other
//! path to a verdict. Must not: use identities or maps.

mod default_verdict;
mod evaluate;
mod label_classes;
mod peers;
mod ports;
mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use default_verdict::{DefaultVerdict, isolating};
pub use evaluate::{
    Connection, Decision, EndDecision, EndVerdict, Miss, MissReason, Remote,
    allows_unknown_backend, evaluate, evaluate_end, is_own_node, is_service,
};
use hashbrown::HashMap;
use netpol_common::ids::Direction;
pub use peers::{PeerBase, PeerSet, PortFilter};
pub use ports::{PortSet, TransportPorts};
pub use rule::{
    Action, PolicyKind, PolicyRef, PolicyRule, RuleRef, RuleVerdict, Tier, first_decisive,
};

use crate::model::{ObjectName, Peers, Pod, Policy, Rule};
use crate::store::ClusterState;
use peers::Numberings;

/// The rules and default verdicts for one pod.
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
    /// The verdict where no rule decides.
    pub default: DefaultVerdict,
    /// All policies that isolate the pod let existing connections live on when a change forbids them.
    pub keeps_flows: bool,
    /// The rules in their order of precedence. Pods that the same policies select share them.
    pub rules: RuleList,
}

/// Rules that endpoints share.
pub type RuleList = Arc<[Arc<PolicyRule>]>;

impl DirectionPolicy {
    /// Whether every connection passes without a look at the rules.
    pub fn allows_everything(&self) -> bool {
        self.default == DefaultVerdict::Allow && self.rules.is_empty()
    }
}

/// Resolves endpoints, and caches the resolved rules of each policy until [`Self::forget`] names it.
#[derive(Debug, Default)]
pub struct Resolver {
    shared: BTreeMap<RuleRef, Vec<Arc<PolicyRule>>>,
    /// Ingress rules with port names, by the numbers that the names have on the pod.
    by_pod: BTreeMap<RuleRef, BTreeMap<PortSet, Option<Arc<PolicyRule>>>>,
    /// Egress rules with port names: they depend on the numbers that the pods of the cluster give these names.
    named: BTreeMap<RuleRef, Numberings>,
    /// The rules of each combination of policies since [`Self::begin`].
    lists: HashMap<ListKey, RuleList>,
}

/// What the rules of one direction of a pod depend on: the direction, the memory addresses of the policies and, if a policy
/// has ingress rules with port names, that of the pod's ports.
type ListKey = (Direction, Vec<usize>, Option<usize>);

impl Resolver {
    /// Begins to resolve pods. Until the next call the state must not change.
    pub fn begin(&mut self) {
        self.lists.clear();
    }

    /// Drops a policy that has changed or is gone from the cache.
    pub fn forget(&mut self, policy: &ObjectName) {
        let policy = PolicyRef::network_policy(policy);
        let first = RuleRef { policy: policy.clone(), direction: Direction::ALL[0], index: 0 };
        let of_policy = |rule: &RuleRef| rule.policy == policy;
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

    /// Drops the policies whose port names have other numbers since label classes came or went. Returns these policies.
    pub fn forget_renumbered(&mut self, state: &ClusterState) -> BTreeSet<ObjectName> {
        let mut renumbered = BTreeSet::new();
        for (reference, numberings) in &self.named {
            let Some(policy) = state.policy(&reference.policy.name) else { continue };
            let mut rules = policy.rules(reference.direction).iter();
            let rule = rules.find(|rule| rule.index == reference.index);
            if rule.is_some_and(|rule| Numberings::new(state, &rule.ports) != *numberings) {
                renumbered.insert(reference.policy.name.clone());
            }
        }
        for policy in &renumbered {
            self.forget(policy);
        }
        renumbered
    }

    /// Resolves both directions of a pod.
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
        let (default, policies) = isolating(state, pod, direction);
        let keeps_flows =
            !policies.is_empty() && policies.iter().all(|policy| policy.keeps_connections);
        let rules = self.rules(state, pod, direction, &policies);
        DirectionPolicy { default, keeps_flows, rules }
    }

    fn rules(
        &mut self,
        state: &ClusterState,
        pod: &Pod,
        direction: Direction,
        policies: &[&Policy],
    ) -> RuleList {
        let has_names = |policy: &&Policy| {
            policy.rules(direction).iter().any(|rule| ports::has_names(&rule.ports))
        };
        let by_ports = direction == Direction::Ingress && policies.iter().any(has_names);
        let ports = by_ports.then(|| pod.ports.as_ptr().addr());
        let addresses = policies.iter().map(|policy| std::ptr::from_ref(*policy).addr());
        let key = (direction, addresses.collect(), ports);
        if let Some(known) = self.lists.get(&key) {
            return Arc::clone(known);
        }
        let mut rules = Vec::new();
        for policy in policies {
            for rule in policy.rules(direction) {
                self.collect_rules(state, policy, direction, rule, pod, &mut rules);
            }
        }
        let rules = RuleList::from(rules);
        self.lists.insert(key, Arc::clone(&rules));
        rules
    }

    fn collect_rules(
        &mut self,
        state: &ClusterState,
        policy: &Policy,
        direction: Direction,
        rule: &Rule,
        pod: &Pod,
        rules: &mut Vec<Arc<PolicyRule>>,
    ) {
        let source = rule_ref(policy, direction, rule);
        let has_names = ports::has_names(&rule.ports);
        if has_names && direction == Direction::Ingress {
            // The destination is the pod itself: pods that give the names the same numbers share the rule.
            let open = ports::resolve_on(&rule.ports, pod);
            let by_ports = self.by_pod.entry(source.clone()).or_default();
            let known = by_ports.entry(open).or_insert_with_key(|open| {
                let peers = base(policy, rule).map(PeerSet::unfiltered);
                PolicyRule::network_policy(source, peers, open.clone())
            });
            rules.extend(known.clone());
            return;
        }
        if let Some(known) = self.shared.get(&source) {
            rules.extend_from_slice(known);
            return;
        }
        let mut found = Vec::new();
        let numbered = ports::numbered(&rule.ports);
        let peers = base(policy, rule).map(PeerSet::unfiltered);
        found.extend(PolicyRule::network_policy(source.clone(), peers, numbered));
        if has_names {
            // The destination is the peer: each peer pod has its own number for a name.
            let base = base(policy, rule).unwrap_or(PeerBase::Everybody);
            let numberings = Numberings::new(state, &rule.ports);
            for (peers, open) in numberings.split(&base) {
                found.extend(PolicyRule::network_policy(source.clone(), Some(peers), open));
            }
            self.named.insert(source.clone(), numberings);
        }
        rules.extend_from_slice(&found);
        self.shared.insert(source, found);
    }
}

/// The reference to a rule of a NetworkPolicy.
pub fn rule_ref(policy: &Policy, direction: Direction, rule: &Rule) -> RuleRef {
    RuleRef { policy: PolicyRef::network_policy(&policy.name), direction, index: rule.index }
}

/// The peers of a rule, without regard to port names; `None` is every address.
pub fn peer_set(policy: &Policy, rule: &Rule) -> Option<PeerSet> {
    base(policy, rule).map(PeerSet::unfiltered)
}

/// The peers of a rule as listed; `None` is every address.
fn base(policy: &Policy, rule: &Rule) -> Option<PeerBase> {
    match &rule.peers {
        Peers::All => None,
        Peers::AnyOf(peers) => Some(PeerBase::any_of(&policy.name.namespace, peers)),
    }
}
