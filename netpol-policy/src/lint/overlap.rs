//! Comparison of rules: are there connections that two rules match?
//!
//! In: two rules of ClusterNetworkPolicies of one direction. Out: [`Overlap`]. What pods a set lacks cannot be told.

use std::collections::BTreeSet;

use super::context::ObjectSet;
use super::cover;
use crate::model::{Peer, Peers, PortSpec, Ports, Rule};

/// Whether two rules match the same connections, at least in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Overlap {
    /// They never do, in this set.
    None,
    /// Nothing says that they do, and nothing that they do not.
    Possible,
    /// They do.
    Certain,
}

/// Compares two rules.
pub(super) fn rules(objects: &ObjectSet<'_>, one: &Rule, other: &Rule) -> Overlap {
    ports(&one.ports, &other.ports).min(peers(objects, &one.peers, &other.peers))
}

fn ports(one: &Ports, other: &Ports) -> Overlap {
    let (Ports::AnyOf(one), Ports::AnyOf(other)) = (one, other) else {
        let is_empty = |ports: &Ports| matches!(ports, Ports::AnyOf(items) if items.is_empty());
        let is_none = is_empty(one) || is_empty(other);
        return if is_none { Overlap::None } else { Overlap::Certain };
    };
    let pairs = one.iter().flat_map(|one| other.iter().map(move |other| (one, other)));
    let overlaps = pairs.map(|(one, other)| match (&one.ports, &other.ports) {
        _ if one.transport != other.transport => Overlap::None,
        (PortSpec::Any, _) | (_, PortSpec::Any) => Overlap::Certain,
        (PortSpec::Range(one), PortSpec::Range(other)) => {
            let is_apart = one.last() < other.first() || other.last() < one.first();
            if is_apart { Overlap::None } else { Overlap::Certain }
        }
        (PortSpec::Named(one), PortSpec::Named(other)) if one == other => Overlap::Certain,
        (PortSpec::Named(_), _) | (_, PortSpec::Named(_)) => Overlap::Possible,
    });
    overlaps.max().unwrap_or(Overlap::None)
}

fn peers(objects: &ObjectSet<'_>, one: &Peers, other: &Peers) -> Overlap {
    let (Peers::AnyOf(one), Peers::AnyOf(other)) = (one, other) else {
        let is_empty = |peers: &Peers| matches!(peers, Peers::AnyOf(items) if items.is_empty());
        let is_none = is_empty(one) || is_empty(other);
        return if is_none { Overlap::None } else { Overlap::Certain };
    };
    let pairs = one.iter().flat_map(|one| other.iter().map(move |other| (one, other)));
    pairs.map(|(one, other)| peer(objects, one, other)).max().unwrap_or(Overlap::None)
}

fn peer(objects: &ObjectSet<'_>, one: &Peer, other: &Peer) -> Overlap {
    match (one, other) {
        _ if one == other => Overlap::Certain,
        (Peer::IpBlock(one), Peer::IpBlock(other)) => {
            let is_nested =
                cover::network(one.cidr, other.cidr) || cover::network(other.cidr, one.cidr);
            if is_nested { Overlap::Certain } else { Overlap::None }
        }
        (
            Peer::Pods { namespaces: of_one, pods: one },
            Peer::Pods { namespaces: of_other, pods: other },
        ) => {
            if !objects.has_pods() {
                return Overlap::Possible;
            }
            let found: BTreeSet<_> =
                objects.of_peer("", of_one, one).map(std::ptr::from_ref).collect();
            let mut others = objects.of_peer("", of_other, other).map(std::ptr::from_ref);
            if others.any(|pod| found.contains(&pod)) { Overlap::Certain } else { Overlap::None }
        }
        (Peer::IpBlock(_) | Peer::Pods { .. } | Peer::Nodes(_), _) => Overlap::Possible,
    }
}
