//! The subject of a check: a rule with its policy, and the objects of the set.

use std::net::IpAddr;

use netpol_common::ids::Direction;

use crate::model::{NamespaceMatch, Peer, Peers, Pod, Policy, Rule};
use crate::resolve::{RuleRef, rule_ref};
use crate::store::ClusterState;

/// The whole set of objects, and the kinds that it contains.
pub(super) struct ObjectSet<'a> {
    pub(super) state: &'a ClusterState,
    pub(super) has_pods: bool,
    pub(super) has_namespaces: bool,
    /// Some pod has addresses of both families.
    pub(super) is_dual_stack: bool,
}

impl<'a> ObjectSet<'a> {
    pub(super) fn new(state: &'a ClusterState) -> Self {
        Self {
            state,
            has_pods: state.pods().next().is_some(),
            has_namespaces: state.namespaces().next().is_some(),
            is_dual_stack: state.pods().any(|pod| {
                let mut addresses = pod.addresses().iter();
                addresses.clone().any(IpAddr::is_ipv4) && addresses.any(IpAddr::is_ipv6)
            }),
        }
    }

    /// Whether a pod is in a namespace that a peer of this policy selects.
    pub(super) fn is_in(&self, namespaces: &NamespaceMatch, policy: &Policy, pod: &Pod) -> bool {
        let namespace = &pod.name.namespace;
        match namespaces {
            NamespaceMatch::Own => *namespace == policy.name.namespace,
            NamespaceMatch::Selected(selector) => {
                let labels = self.state.namespace_labels(namespace);
                selector.is_everything() || labels.is_some_and(|labels| selector.matches(labels))
            }
        }
    }
}

/// A rule with its policy and direction.
pub(super) struct LocatedRule<'a> {
    pub(super) policy: &'a Policy,
    pub(super) direction: Direction,
    pub(super) spec: &'a Rule,
}

impl<'a> LocatedRule<'a> {
    pub(super) fn reference(&self) -> RuleRef {
        let Self { policy, direction, spec } = self;
        rule_ref(policy, *direction, spec)
    }

    /// Path of the rule.
    pub(super) fn field(&self) -> String {
        format!("spec.{}[{}]", self.direction, self.spec.index)
    }

    /// Path of an item of the rule's `from` or `to`.
    pub(super) fn peer_field(&self, index: usize) -> String {
        let list = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        format!("{}.{list}[{index}]", self.field())
    }

    /// Path of an item of the rule's `ports`.
    pub(super) fn port_field(&self, index: usize) -> String {
        format!("{}.ports[{index}]", self.field())
    }

    /// The rule's peers; empty if the rule applies to all peers.
    pub(super) fn peers(&self) -> &'a [Peer] {
        match &self.spec.peers {
            Peers::All => &[],
            Peers::AnyOf(peers) => peers,
        }
    }
}
