//! Comparison of rules: does one rule allow everything that another rule allows?
//!
//! In: two rules or peers. Out: `true` only if it holds in every cluster, because only the rules are compared, not the pods that
//! they select. Must not: read the state.

use ipnetwork::IpNetwork;

use super::cover_index::{Candidates, PeerIndex, PortIndex, first};
use super::labels::includes;
use crate::model::{IpBlock, NamespaceMatch, Peer, Peers, PortMatch, PortSpec, Ports, Rule};

/// The largest number of items that are looked for in a list without an index.
const MAX_SCANS: usize = 8;

/// Whether `wide` allows everything that `narrow` allows. Both are rules of one policy.
pub(super) fn rule(wide: &Rule, narrow: &Rule) -> bool {
    peers(&wide.peers, &narrow.peers) && ports(&wide.ports, &narrow.ports)
}

fn peers(wide: &Peers, narrow: &Peers) -> bool {
    match (wide, narrow) {
        (Peers::All, _) => true,
        (Peers::AnyOf(_), Peers::All) => false,
        (Peers::AnyOf(wide), Peers::AnyOf(narrow)) => {
            let index = |wide| PeerIndex::new(<[Peer]>::iter(wide).map(Some).enumerate());
            all(wide, narrow, peer, index, |index, narrow| index.candidates(Some(narrow)))
        }
    }
}

/// Whether an item of `wide` includes each item of `narrow`. Lists are often equal, so the item at the same position is compared
/// first. The index is built for long lists only.
fn all<'w, T, I>(
    wide: &'w [T],
    narrow: &[T],
    includes: impl Fn(&T, &T) -> bool,
    index: impl FnOnce(&'w [T]) -> I,
    candidates: impl for<'i> Fn(&'i I, &'i T) -> Candidates<'i>,
) -> bool {
    let mut narrow = narrow.iter().enumerate().filter_map(|(position, narrow)| {
        let is_same = wide.get(position).is_some_and(|wide| includes(wide, narrow));
        (!is_same).then_some(narrow)
    });
    let is_included = |narrow: &T| wide.iter().any(|wide| includes(wide, narrow));
    if !narrow.by_ref().take(MAX_SCANS).all(is_included) {
        return false;
    }
    let Some(next) = narrow.next() else { return true };
    let index = index(wide);
    std::iter::once(next).chain(narrow).all(|narrow| {
        let is_wanted = |at: usize| wide.get(at).is_some_and(|wide| includes(wide, narrow));
        first(&candidates(&index, narrow), is_wanted).is_some()
    })
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
                    includes(wide, narrow)
                }
            };
            in_namespaces && includes(wide_pods, pods)
        }
        (Peer::Nodes(wide), Peer::Nodes(narrow)) => includes(wide, narrow),
        (Peer::IpBlock(_) | Peer::Pods { .. } | Peer::Nodes(_), _) => false,
    }
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
            let index = |wide| PortIndex::new(<[PortMatch]>::iter(wide).map(Some).enumerate());
            all(wide, narrow, port, index, |index, narrow| index.candidates(Some(narrow)))
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
