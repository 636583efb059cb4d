//! The policies of one endpoint as ordered rules.
//!
//! In: the cluster's state and a pod. Out: an [`EndpointPolicy`]: for each direction the rules in their order of precedence,
//! with port names resolved ([`PolicyRule`]), and the verdict where no rule decides ([`DefaultVerdict`]). [`evaluate`] is
//! the reference semantics: it judges one connection from the objects; its module doc lists what it shares with the other
//! path to a verdict. Must not: use identities or maps.

mod default_verdict;
mod evaluate;
mod label_classes;
mod own_node;
mod peers;
mod ports;
mod rule;
mod selection;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use default_verdict::{DefaultVerdict, isolating, selecting};
pub use evaluate::{
    Connection, Decision, EndDecision, EndVerdict, Miss, MissReason, Remote,
    allows_unknown_backend, evaluate, is_any_node, is_own_node, is_service, is_translated_by,
};
use hashbrown::HashMap;
pub use label_classes::is_any_peer;
use netpol_common::ids::Direction;
pub use own_node::{TranslatedPort, backends_on_host, translated_for};
pub use peers::{PeerBase, PeerSet, PortFilter};
pub use ports::{PortSet, TransportPorts};
pub use rule::{PolicyKind, PolicyRef, PolicyRule, RuleRef, RuleVerdict, Tier, first_decisive};
use smallvec::SmallVec;

pub use crate::model::Action;
use crate::model::{ClusterPolicy, Pod, Policy, PolicyMode, Rule};
use crate::store::ClusterState;
use peers::Numberings;
use selection::{ListedRule, Selection};

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
    /// All policies that isolate the pod let existing connections live on when a change forbids them, and no other policy is
    /// enforced.
    pub keeps_flows: bool,
    /// An enforced rule drops connections.
    pub denies: bool,
    /// The rules in their order of precedence. Pods that the same policies select share them.
    pub rules: RuleList,
}

/// Rules that endpoints share.
pub type RuleList = Arc<[Arc<PolicyRule>]>;

impl DirectionPolicy {
    /// Whether every connection passes, and none is reported, without a look at the rules.
    pub fn allows_everything(&self) -> bool {
        self.default == DefaultVerdict::Allow && !self.has_deny()
    }

    /// Whether a rule denies, or would if its policy were enforced.
    pub fn has_deny(&self) -> bool {
        self.rules.iter().any(|rule| rule.action == Action::Deny)
    }

    /// Whether what rules cannot describe passes and is reported, as all that is not allowed.
    pub fn is_audited(&self) -> bool {
        match self.default {
            DefaultVerdict::Allow => !self.denies,
            DefaultVerdict::Audit => true,
            DefaultVerdict::Deny => false,
        }
    }
}

/// Resolves endpoints, and caches the resolved rules of each policy until [`Self::forget`] names it.
#[derive(Debug, Default)]
pub struct Resolver {
    by_policy: BTreeMap<PolicyRef, ResolvedRules>,
    /// Policies with egress rules with port names: they depend on the numbers that the pods of the cluster give these names.
    named: BTreeMap<PolicyRef, BTreeMap<RuleRef, Numberings>>,
    /// Policies with rules for nodes.
    with_nodes: BTreeSet<PolicyRef>,
    /// The rules of each combination of policies since [`Self::begin`].
    lists: HashMap<ListKey, RuleList>,
}

/// A rule of a policy: its direction and its position in the API's list.
type Position = (Direction, usize);

/// The rules of a policy that have been resolved.
#[derive(Debug, Default)]
struct ResolvedRules {
    /// Those that are the same for every pod.
    shared: HashMap<Position, Few<Arc<PolicyRule>>>,
    /// Ingress rules with port names, by the numbers that the names have on the pod.
    by_pod: HashMap<Position, BTreeMap<PortSet, Option<Arc<PolicyRule>>>>,
}

/// What a rule without port names becomes is one rule.
type Few<T> = SmallVec<[T; 1]>;

/// What the rules of one direction of a pod depend on: the direction, the memory addresses of the policies and, if a policy
/// has ingress rules with port names, that of the pod's ports.
type ListKey = (Direction, Vec<usize>, Option<usize>);

impl Resolver {
    /// Begins to resolve pods. Until the next call the state must not change.
    pub fn begin(&mut self) {
        self.lists.clear();
    }

    /// Drops a policy that has changed or is gone from the cache.
    pub fn forget(&mut self, policy: &PolicyRef) {
        self.by_policy.remove(policy);
        self.named.remove(policy);
        self.with_nodes.remove(policy);
    }

    /// Drops the policies whose port names have other numbers since label classes came or went. Returns these policies.
    pub fn forget_renumbered(&mut self, state: &ClusterState) -> BTreeSet<PolicyRef> {
        let mut renumbered = BTreeSet::new();
        for (policy, rules) in &self.named {
            let is_renumbered = |(reference, numberings): (&RuleRef, &Numberings)| {
                let rule = selection::find(state, reference);
                rule.is_some_and(|listed| Numberings::new(state, &listed.rule.ports) != *numberings)
            };
            if rules.iter().any(is_renumbered) {
                renumbered.insert(policy.clone());
            }
        }
        for policy in &renumbered {
            self.forget(policy);
        }
        renumbered
    }

    /// Drops the policies with rules for nodes, because a node has changed. Returns these policies.
    pub fn forget_nodes(&mut self) -> BTreeSet<PolicyRef> {
        let with_nodes = std::mem::take(&mut self.with_nodes);
        for policy in &with_nodes {
            self.forget(policy);
        }
        with_nodes
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
        let cluster = selecting(state, pod, direction, default);
        let enforced = cluster.iter().filter(|policy| policy.mode == PolicyMode::Enforce);
        let keeps_flows = !policies.is_empty()
            && policies.iter().all(|policy| policy.keeps_connections)
            && enforced.clone().count() == 0;
        let denies = enforced
            .flat_map(|policy| policy.rules(direction))
            .any(|rule| rule.action == Action::Deny);
        let selected = Selection::in_order(&policies, &cluster);
        let rules = self.rules(state, pod, direction, &selected);
        DirectionPolicy { default, keeps_flows, denies, rules }
    }

    fn rules(
        &mut self,
        state: &ClusterState,
        pod: &Pod,
        direction: Direction,
        policies: &[Selection<'_>],
    ) -> RuleList {
        let has_names = |policy: &Selection<'_>| {
            policy.rules(direction).any(|rule| ports::has_names(&rule.rule.ports))
        };
        let by_ports = direction == Direction::Ingress && policies.iter().any(has_names);
        let ports = by_ports.then(|| pod.ports.as_ptr().addr());
        let addresses = policies.iter().map(|policy| policy.memory_address());
        let key = (direction, addresses.collect(), ports);
        if let Some(known) = self.lists.get(&key) {
            return Arc::clone(known);
        }
        let mut rules = Vec::new();
        for policy in policies {
            for rule in policy.rules(direction) {
                self.collect_rules(state, &rule, pod, &mut rules);
            }
        }
        let rules = RuleList::from(rules);
        self.lists.insert(key, Arc::clone(&rules));
        rules
    }

    fn collect_rules(
        &mut self,
        state: &ClusterState,
        listed: &ListedRule<'_>,
        pod: &Pod,
        rules: &mut Vec<Arc<PolicyRule>>,
    ) {
        let ListedRule { rule, source, .. } = listed;
        let has_names = ports::has_names(&rule.ports);
        let position = (source.direction, source.index);
        let known = match self.by_policy.get_mut(&source.policy) {
            Some(known) => known,
            None => self.by_policy.entry(source.policy.clone()).or_default(),
        };
        if has_names && source.direction == Direction::Ingress {
            // The destination is the pod itself: pods that give the names the same numbers share the rule.
            let open = ports::resolve_on(&rule.ports, pod);
            let by_ports = known.by_pod.entry(position).or_default();
            let known = by_ports.entry(open).or_insert_with_key(|open| {
                listed.resolved(listed.base(state).map(PeerSet::unfiltered), open.clone())
            });
            rules.extend(known.clone());
            return;
        }
        if let Some(resolved) = known.shared.get(&position) {
            rules.extend_from_slice(resolved);
            return;
        }
        if listed.has_nodes() {
            self.with_nodes.insert(source.policy.clone());
        }
        let mut found = Few::new();
        let base = listed.base(state);
        let numbered = ports::numbered(&rule.ports);
        found.extend(listed.resolved(base.clone().map(PeerSet::unfiltered), numbered));
        if has_names {
            // The destination is the peer: each peer pod has its own number for a name.
            let base = base.unwrap_or(PeerBase::Everybody);
            let numberings = Numberings::new(state, &rule.ports);
            for (peers, open) in numberings.split(&base) {
                found.extend(listed.resolved(Some(peers), open));
            }
            let named = self.named.entry(source.policy.clone()).or_default();
            named.insert(source.clone(), numberings);
        }
        rules.extend_from_slice(&found);
        known.shared.insert(position, found);
    }
}

/// The reference to a rule of a NetworkPolicy.
pub fn rule_ref(policy: &Policy, direction: Direction, rule: &Rule) -> RuleRef {
    RuleRef { policy: PolicyRef::network_policy(&policy.name), direction, index: rule.index }
}

/// The reference to a rule of a ClusterNetworkPolicy.
pub fn cluster_rule_ref(policy: &ClusterPolicy, direction: Direction, rule: &Rule) -> RuleRef {
    RuleRef { policy: PolicyRef::cluster_policy(&policy.name), direction, index: rule.index }
}

/// Every rule of every policy that can be in force, as if it were for all ports.
pub fn every_rule(state: &ClusterState) -> Vec<Arc<PolicyRule>> {
    let network = state.policies().map(Selection::Network);
    let cluster = state.cluster_policies().map(Selection::Cluster);
    let mut found = Vec::new();
    for policy in network.chain(cluster) {
        for direction in policy.directions() {
            for listed in policy.rules(direction) {
                let peers = listed.base(state).map(PeerSet::unfiltered);
                found.extend(listed.resolved(peers, PortSet::All));
            }
        }
    }
    found
}

/// What an explanation says about a rule.
#[derive(Clone, Copy, Debug)]
pub struct RuleInWords<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// Its effect.
    pub action: Action,
    /// Its name, empty if it has none.
    pub name: &'a str,
    /// The tier of its policy.
    pub tier: Tier,
    /// Whether its policy is enforced.
    pub mode: PolicyMode,
}

impl RuleInWords<'_> {
    /// The name as it follows a reference: in brackets after a space, or nothing.
    pub fn name_in_brackets(&self) -> String {
        if self.name.is_empty() { String::new() } else { format!(" ({})", self.name) }
    }
}

/// The rule behind a reference; `None` if the state does not have it.
pub fn rule_in_words<'a>(state: &'a ClusterState, reference: &RuleRef) -> Option<RuleInWords<'a>> {
    let listed = selection::find(state, reference)?;
    let ListedRule { rule, action, name, tier, mode, .. } = listed;
    Some(RuleInWords { rule, action, name, tier, mode })
}
