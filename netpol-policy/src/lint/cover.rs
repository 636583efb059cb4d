//! Comparison of rules: does one rule allow everything that another rule allows?
//!
//! In: two rules or peers. Out: `true` only if it holds in every cluster, because only the rules are compared, not the pods that
//! they select. Must not: read the state.

use ipnetwork::IpNetwork;

use crate::model::{
    IpBlock, NamespaceMatch, Peer, Peers, PortMatch, PortSpec, Ports, Rule, Selector,
};

/// Whether `wide` allows everything that `narrow` allows. Both are rules of one policy.
pub(super) fn rule(wide: &Rule, narrow: &Rule) -> bool {
    peers(&wide.peers, &narrow.peers) && ports(&wide.ports, &narrow.ports)
}

fn peers(wide: &Peers, narrow: &Peers) -> bool {
    match (wide, narrow) {
        (Peers::All, _) => true,
        (Peers::AnyOf(_), Peers::All) => false,
        (Peers::AnyOf(wide), Peers::AnyOf(narrow)) => {
            // Lists are often equal, so the peer at the same position is compared first.
            narrow.iter().enumerate().all(|(position, narrow)| {
                wide.get(position).is_some_and(|wide| peer(wide, narrow))
                    || wide.iter().any(|wide| peer(wide, narrow))
            })
        }
    }
}

/// Whether `wide` selects everything that `narrow` selects.
pub(super) fn peer(wide: &Peer, narrow: &Peer) -> bool {
    match (wide, narrow) {
        (Peer::IpBlock(wide), Peer::IpBlock(narrow)) => block(wide, narrow),
        (
            Peer::Pods { namespaces: wide_namespaces, pods: wide_pods },
            Peer::Pods { namespaces, pods },
        ) => {
            let in_namespaces = match (wide_namespaces, namespaces) {
                (NamespaceMatch::Own, NamespaceMatch::Own) => true,
                (NamespaceMatch::Selected(wide), NamespaceMatch::Own) => wide.is_everything(),
                (NamespaceMatch::Own, NamespaceMatch::Selected(_)) => false,
                (NamespaceMatch::Selected(wide), NamespaceMatch::Selected(narrow)) => {
                    selector(wide, narrow)
                }
            };
            in_namespaces && selector(wide_pods, pods)
        }
        (Peer::Nodes(wide), Peer::Nodes(narrow)) => selector(wide, narrow),
        (Peer::IpBlock(_) | Peer::Pods { .. } | Peer::Nodes(_), _) => false,
    }
}

/// Whether every requirement of `wide` is one of `narrow`, so that `wide` selects at least as much.
fn selector(wide: &Selector, narrow: &Selector) -> bool {
    wide.requirements().all(|needed| narrow.requires(needed))
}

fn block(wide: &IpBlock, narrow: &IpBlock) -> bool {
    network(wide.cidr, narrow.cidr)
        && wide.except.iter().all(|excluded| {
            let is_apart = !network(*excluded, narrow.cidr) && !network(narrow.cidr, *excluded);
            is_apart || narrow.except.iter().any(|other| network(*other, *excluded))
        })
}

/// Whether `outer` contains `inner`.
pub(super) fn network(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4()
        && outer.prefix() <= inner.prefix()
        && outer.contains(inner.network())
}

fn ports(wide: &Ports, narrow: &Ports) -> bool {
    match (wide, narrow) {
        (Ports::All, _) => true,
        (Ports::AnyOf(_), Ports::All) => false,
        (Ports::AnyOf(wide), Ports::AnyOf(narrow)) => {
            narrow.iter().all(|narrow| wide.iter().any(|wide| port(wide, narrow)))
        }
    }
}

fn port(wide: &PortMatch, narrow: &PortMatch) -> bool {
    wide.transport == narrow.transport
        && match (&wide.ports, &narrow.ports) {
            (PortSpec::Any, _) => true,
            (PortSpec::Range(wide), PortSpec::Range(narrow)) => {
                wide.first() <= narrow.first() && narrow.last() <= wide.last()
            }
            (PortSpec::Named(wide), PortSpec::Named(narrow)) => wide == narrow,
            (PortSpec::Range(_), PortSpec::Any | PortSpec::Named(_))
            | (PortSpec::Named(_), PortSpec::Any | PortSpec::Range(_)) => false,
        }
}
