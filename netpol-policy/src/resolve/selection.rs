//! The policies that select a pod, whatever their kind.

use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use netpol_common::ids::Direction;

use super::peers::{PeerBase, PeerSet};
use super::{
    PolicyKind, PolicyRef, PolicyRule, PortSet, RuleRef, Tier, cluster_rule_ref, rule_ref,
};
use crate::model::{
    Action, ClusterPolicy, IpBlock, Peer, Peers, Policy, PolicyMode, Rule, Selector,
};
use crate::store::ClusterState;

/// A policy that selects a pod.
#[derive(Clone, Copy, Debug)]
pub(super) enum Selection<'a> {
    Network(&'a Policy),
    Cluster(&'a ClusterPolicy),
}

/// A rule as its policy lists it.
#[derive(Clone, Debug)]
pub(super) struct ListedRule<'a> {
    pub(super) source: RuleRef,
    pub(super) rule: &'a Rule,
    /// Empty if it has none.
    pub(super) name: &'a str,
    pub(super) tier: Tier,
    priority: u16,
    pub(super) mode: PolicyMode,
    pub(super) action: Action,
    /// Namespace of the policy; empty for a ClusterNetworkPolicy.
    pub(super) namespace: Arc<str>,
}

impl<'a> Selection<'a> {
    /// Policies in the order of precedence of their tiers. Those of `cluster` are in theirs.
    pub(super) fn in_order(network: &[&'a Policy], cluster: &[&'a ClusterPolicy]) -> Vec<Self> {
        let is_before = |policy: &&ClusterPolicy| Tier::from(policy.tier) < Tier::NetworkPolicy;
        let (before, after) = cluster.split_at(cluster.partition_point(is_before));
        let of_cluster = |policies: &[&'a ClusterPolicy]| -> Vec<Self> {
            policies.iter().copied().map(Self::Cluster).collect()
        };
        let network = network.iter().copied().map(Self::Network);
        of_cluster(before).into_iter().chain(network).chain(of_cluster(after)).collect()
    }

    /// Memory address of the policy.
    pub(super) fn memory_address(self) -> usize {
        match self {
            Self::Network(policy) => std::ptr::from_ref(policy).addr(),
            Self::Cluster(policy) => std::ptr::from_ref(policy).addr(),
        }
    }

    /// The directions in which the policy can select pods.
    pub(super) fn directions(self) -> impl Iterator<Item = Direction> {
        let selects = move |direction: &Direction| match self {
            Self::Network(policy) => policy.policy_types.contains(*direction),
            Self::Cluster(_) => true,
        };
        Direction::ALL.into_iter().filter(selects)
    }

    /// The rules of one direction.
    pub(super) fn rules(self, direction: Direction) -> impl Iterator<Item = ListedRule<'a>> {
        let (network, cluster) = match self {
            Self::Network(policy) => (Some(policy), None),
            Self::Cluster(policy) => (None, Some(policy)),
        };
        let of_network = network.into_iter().flat_map(move |policy| {
            policy.rules(direction).iter().map(move |rule| ListedRule {
                source: rule_ref(policy, direction, rule),
                rule,
                name: "",
                tier: Tier::NetworkPolicy,
                priority: 0,
                mode: policy.mode,
                action: Action::Accept,
                namespace: Arc::clone(&policy.name.namespace),
            })
        });
        let of_cluster = cluster.into_iter().flat_map(move |policy| {
            policy.rules(direction).iter().map(move |listed| ListedRule {
                source: cluster_rule_ref(policy, direction, &listed.rule),
                rule: &listed.rule,
                name: &listed.name,
                tier: policy.tier.into(),
                priority: policy.priority,
                mode: policy.mode,
                action: listed.action,
                namespace: Arc::from(""),
            })
        });
        of_network.chain(of_cluster)
    }
}

impl ListedRule<'_> {
    /// Whether the rule has nodes as peers.
    pub(super) fn has_nodes(&self) -> bool {
        match &self.rule.peers {
            Peers::All => false,
            Peers::AnyOf(peers) => peers.iter().any(|peer| matches!(peer, Peer::Nodes(_))),
        }
    }

    /// The peers as listed, nodes as their addresses; `None` is every address.
    pub(super) fn base(&self, state: &ClusterState) -> Option<PeerBase> {
        let peers = match &self.rule.peers {
            Peers::All => return None,
            Peers::AnyOf(peers) => peers,
        };
        if !self.has_nodes() {
            return Some(PeerBase::any_of(&self.namespace, peers));
        }
        let mut resolved = Vec::new();
        for peer in peers {
            match peer {
                Peer::Pods { .. } | Peer::IpBlock(_) => resolved.push(peer.clone()),
                Peer::Nodes(nodes) => resolved.extend(addresses_of(state, nodes).map(single)),
            }
        }
        Some(PeerBase::any_of(&self.namespace, &resolved))
    }

    /// The rule with these peers and ports, unless it can never match.
    pub(super) fn resolved(
        &self,
        peers: Option<PeerSet>,
        ports: PortSet,
    ) -> Option<Arc<PolicyRule>> {
        PolicyRule {
            tier: self.tier,
            priority: self.priority,
            source: self.source.clone(),
            mode: self.mode,
            action: self.action,
            peers: peers.map(Arc::new),
            ports,
        }
        .shared()
    }
}

fn addresses_of(state: &ClusterState, nodes: &Selector) -> impl Iterator<Item = IpAddr> {
    let selected = state.nodes().filter(|node| nodes.matches(&node.labels));
    selected.flat_map(|node| node.addresses.iter().copied())
}

fn single(address: IpAddr) -> Peer {
    Peer::IpBlock(IpBlock { cidr: IpNetwork::from(address), except: Vec::new() })
}

/// The rule behind a reference, as its policy lists it.
pub(super) fn find<'a>(state: &'a ClusterState, reference: &RuleRef) -> Option<ListedRule<'a>> {
    let PolicyRef { kind, name } = &reference.policy;
    let policy = match kind {
        PolicyKind::NetworkPolicy => Selection::Network(state.policy(name)?),
        PolicyKind::ClusterNetworkPolicy => Selection::Cluster(state.cluster_policy(&name.name)?),
    };
    policy.rules(reference.direction).find(|listed| listed.source == *reference)
}
