//! What the policies mean for one endpoint.
//!
//! In: the cluster's state and a pod. Out: an [`EndpointPolicy`]: for each direction whether the pod is isolated
//! and which grants open it, with port names resolved. [`evaluate`] is the reference semantics: it answers one
//! connection straight from the objects and shares no code with the rest. Must not: know identities or maps.

mod evaluate;
mod isolation;
mod peers;
mod ports;

use std::collections::BTreeMap;
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
    pub grants: Vec<Arc<Grant>>,
}

/// Peers and ports that one rule opens; a rule with port names makes several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// The rule, for explanations.
    pub rule: RuleRef,
    /// The other end; `None` is everybody.
    pub peers: Option<Arc<PeerSet>>,
    /// The destination ports.
    pub ports: PortSet,
}

/// Resolves endpoints of one state; remembers what several of them share.
#[derive(Debug)]
pub struct Resolver<'a> {
    state: &'a ClusterState,
    shared: BTreeMap<RuleRef, Vec<Arc<Grant>>>,
}

impl<'a> Resolver<'a> {
    /// A resolver for this state.
    pub fn new(state: &'a ClusterState) -> Self {
        Self { state, shared: BTreeMap::new() }
    }

    /// What the policies mean for a pod.
    pub fn resolve(&mut self, pod: &Pod) -> EndpointPolicy {
        EndpointPolicy {
            ingress: self.resolve_direction(pod, Direction::Ingress),
            egress: self.resolve_direction(pod, Direction::Egress),
        }
    }

    fn resolve_direction(&mut self, pod: &Pod, direction: Direction) -> DirectionPolicy {
        let (isolation, policies) = isolating(self.state, pod, direction);
        let keeps_flows =
            !policies.is_empty() && policies.iter().all(|policy| policy.keeps_connections);
        let mut grants = Vec::new();
        for policy in policies {
            for rule in policy.rules(direction) {
                grants.extend(self.grants(policy, direction, rule, pod));
            }
        }
        DirectionPolicy { isolation, keeps_flows, grants }
    }

    fn grants(
        &mut self,
        policy: &Policy,
        direction: Direction,
        rule: &Rule,
        pod: &Pod,
    ) -> Vec<Arc<Grant>> {
        let reference = RuleRef { policy: policy.name.clone(), direction, index: rule.index };
        let has_names = ports::has_names(&rule.ports);
        if has_names && direction == Direction::Ingress {
            // The destination is the pod itself: its own names, for it alone.
            let open = ports::resolve_on(&rule.ports, pod);
            return grant(reference, base(policy, rule).map(PeerSet::unfiltered), open)
                .into_iter()
                .collect();
        }
        if let Some(known) = self.shared.get(&reference) {
            return known.clone();
        }
        let mut grants = Vec::new();
        let numbered = ports::numbered(&rule.ports);
        grants.extend(grant(
            reference.clone(),
            base(policy, rule).map(PeerSet::unfiltered),
            numbered,
        ));
        if has_names {
            // The destination is the peer: every peer pod resolves the names for itself.
            let base = base(policy, rule).unwrap_or(PeerBase::Everybody);
            for (peers, open) in peers::by_named_ports(self.state, &base, &rule.ports) {
                grants.extend(grant(reference.clone(), Some(peers), open));
            }
        }
        self.shared.insert(reference, grants.clone());
        grants
    }
}

/// The peers of a rule; `None` is everybody.
fn base(policy: &Policy, rule: &Rule) -> Option<PeerBase> {
    match &rule.peers {
        Peers::All => None,
        Peers::AnyOf(peers) => Some(PeerBase::any_of(&policy.name.namespace, peers)),
    }
}

fn grant(rule: RuleRef, peers: Option<PeerSet>, ports: PortSet) -> Option<Arc<Grant>> {
    let is_empty = ports.is_empty() || peers.as_ref().is_some_and(PeerSet::is_empty);
    (!is_empty).then(|| Arc::new(Grant { rule, peers: peers.map(Arc::new), ports }))
}
