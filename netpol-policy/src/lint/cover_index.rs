//! Finds what may include a selector, a peer or a list of ports, without comparing each with each.
//!
//! In: items with what they contain. Out: the items that may include a given one: all that do, and few others. Must not: decide what
//! includes what; that is [`super::cover`] and [`super::labels`].
//!
//! A selector that includes another one constrains only keys that the other one constrains too, and the values that the other one lists
//! for a key are among its own. So each item is found by one of its requirements, the rarest one among all items.

use std::collections::BTreeSet;

use hashbrown::HashMap;
use ipnetwork::IpNetwork;
use smallvec::{SmallVec, smallvec};

use super::labels::{KeyCondition, keys};
use crate::model::{
    IpBlock, NamespaceMatch, Peer, PortMatch, PortName, PortSpec, Requirement, Selector, Transport,
};

/// Positions of items, sorted.
type Items = SmallVec<[usize; 2]>;

/// Sorted lists of positions.
pub(super) type Candidates<'i> = SmallVec<[&'i [usize]; 4]>;

/// Number of candidates.
pub(super) fn n_candidates(candidates: &Candidates<'_>) -> usize {
    candidates.iter().map(|items| items.len()).sum()
}

/// The first candidate of which this is true.
pub(super) fn first(
    candidates: &Candidates<'_>,
    mut is_wanted: impl FnMut(usize) -> bool,
) -> Option<usize> {
    let firsts = candidates.iter().filter_map(|items| items.iter().find(|item| is_wanted(**item)));
    firsts.copied().min()
}

/// Adds an item once: the alternatives of one item come one after the other.
fn push(items: &mut Items, item: usize) {
    if items.last() != Some(&item) {
        items.push(item);
    }
}

/// Which of the selectors of an item a requirement belongs to: namespaces and pods have labels of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Namespaces,
    Pods,
    Nodes,
}

/// What items are found by: a key, with one of its values if the requirement lists them.
type Anchor<'a> = (Side, &'a str, Option<&'a str>);

/// The selectors that an object must match, all of them.
pub(super) type Selectors<'a> = SmallVec<[(Side, &'a Selector); 2]>;

/// Items by their selectors.
#[derive(Debug, Default)]
pub(super) struct SelectorIndex<'a> {
    /// Items whose selectors select everything.
    whole: Items,
    by_anchor: HashMap<Anchor<'a>, Items>,
}

impl<'a> SelectorIndex<'a> {
    /// Items with selectors; an item without any includes everything. An item occurs once for each of its alternatives.
    pub(super) fn new(items: impl Iterator<Item = (usize, Selectors<'a>)> + Clone) -> Self {
        let mut n_with: HashMap<Anchor<'a>, usize> = HashMap::new();
        for (side, requirement) in items.clone().flat_map(|(_, selectors)| requirements(selectors))
        {
            for anchor in anchors(side, requirement) {
                *n_with.entry(anchor).or_default() += 1;
            }
        }
        let mut index = Self::default();
        for (item, selectors) in items {
            let n_found = |(side, requirement): &(Side, &'a Requirement)| {
                let n_with = |anchor| n_with.get(&anchor).copied().unwrap_or_default();
                anchors(*side, requirement).map(n_with).max().unwrap_or_default()
            };
            match requirements(selectors).min_by_key(n_found) {
                None => push(&mut index.whole, item),
                Some((side, requirement)) => {
                    for anchor in anchors(side, requirement) {
                        push(index.by_anchor.entry(anchor).or_default(), item);
                    }
                }
            }
        }
        index
    }

    /// The items that may include these selectors. For selectors that select nothing, some are missing.
    pub(super) fn candidates<'i>(&'i self, selectors: Selectors<'i>) -> Candidates<'i> {
        let mut found: Candidates<'_> = smallvec![self.whole.as_slice()];
        for (side, selector) in selectors {
            for key in keys(selector) {
                let value = KeyCondition::of(selector, key).values().and_then(|mut of| of.next());
                let listed =
                    value.and_then(|value| self.by_anchor.get(&(side, &**key, Some(&**value))));
                let others = self.by_anchor.get(&(side, &**key, None));
                found.extend(listed.into_iter().chain(others).map(SmallVec::as_slice));
            }
        }
        found
    }
}

fn requirements<'a>(selectors: Selectors<'a>) -> impl Iterator<Item = (Side, &'a Requirement)> {
    let of =
        |(side, selector): (Side, &'a Selector)| selector.requirements().map(move |of| (side, of));
    selectors.into_iter().flat_map(of)
}

/// Under which an item is found by this requirement.
fn anchors(side: Side, requirement: &Requirement) -> impl Iterator<Item = Anchor<'_>> {
    let (values, alone) = match requirement {
        Requirement::In(_, values) => (values.iter(), false),
        Requirement::NotIn(..) | Requirement::Exists(_) | Requirement::DoesNotExist(_) => {
            ([].iter(), true)
        }
    };
    let key = &**requirement.key();
    let values = values.map(move |value| (side, key, Some(&**value)));
    values.chain(alone.then_some((side, key, None)))
}

/// Items by the peers that they contain.
pub(super) struct PeerIndex<'a> {
    /// By the network of an `ipBlock`, with the prefix lengths that occur, of both families.
    by_network: HashMap<IpNetwork, Items>,
    lengths: BTreeSet<(bool, u8)>,
    /// By the selectors, and the items that contain every peer.
    selecting: SelectorIndex<'a>,
}

impl<'a> PeerIndex<'a> {
    /// Items with each of their peers; without a peer, an item contains every peer.
    pub(super) fn new(items: impl Iterator<Item = (usize, Option<&'a Peer>)> + Clone) -> Self {
        let selecting = items.clone().filter_map(|(item, peer)| match peer {
            None => Some((item, Selectors::new())),
            Some(peer) => Some((item, selectors(peer)?)),
        });
        let selecting = SelectorIndex::new(selecting);
        let mut index = Self { by_network: HashMap::new(), lengths: BTreeSet::new(), selecting };
        for (item, peer) in items {
            if let Some(Peer::IpBlock(block)) = peer {
                index.lengths.insert((block.cidr.is_ipv4(), block.cidr.prefix()));
                push(index.by_network.entry(block.cidr).or_default(), item);
            }
        }
        index
    }

    /// The items that may include a peer, or every peer.
    pub(super) fn candidates<'i>(&'i self, peer: Option<&'i Peer>) -> Candidates<'i> {
        let mut found = self.selecting.candidates(peer.and_then(selectors).unwrap_or_default());
        if let Some(Peer::IpBlock(IpBlock { cidr, except: _ })) = peer {
            let of_family = (cidr.is_ipv4(), 0)..=(cidr.is_ipv4(), cidr.prefix());
            for (_, length) in self.lengths.range(of_family) {
                let wide = IpNetwork::new(cidr.network(), *length);
                let wide = wide.and_then(|wide| IpNetwork::new(wide.network(), *length));
                let items = wide.ok().and_then(|wide| self.by_network.get(&wide));
                found.extend(items.map(SmallVec::as_slice));
            }
        }
        found
    }
}

/// The selectors of a peer; `None` for a block.
fn selectors(peer: &Peer) -> Option<Selectors<'_>> {
    match peer {
        Peer::IpBlock(_) => None,
        Peer::Pods { namespaces: NamespaceMatch::Own, pods } => Some(smallvec![(Side::Pods, pods)]),
        Peer::Pods { namespaces: NamespaceMatch::Selected(namespaces), pods } => {
            Some(smallvec![(Side::Namespaces, namespaces), (Side::Pods, pods)])
        }
        Peer::Nodes(nodes) => Some(smallvec![(Side::Nodes, nodes)]),
    }
}

/// A port, without the length of ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum PortKey<'a> {
    Any,
    Range,
    Number(u16),
    Named(&'a PortName),
}

fn port_key(ports: &PortSpec) -> PortKey<'_> {
    match ports {
        PortSpec::Any => PortKey::Any,
        PortSpec::Range(range) if range.first() == range.last() => PortKey::Number(range.first()),
        PortSpec::Range(_) => PortKey::Range,
        PortSpec::Named(name) => PortKey::Named(name),
    }
}

/// Items by their ports.
#[derive(Debug, Default)]
pub(super) struct PortIndex<'a> {
    /// Items with all ports of all protocols.
    whole: Items,
    by_port: HashMap<(Transport, PortKey<'a>), Items>,
}

impl<'a> PortIndex<'a> {
    /// Items with each of their ports; without one, an item contains every port of every protocol.
    pub(super) fn new(items: impl Iterator<Item = (usize, Option<&'a PortMatch>)>) -> Self {
        let mut index = Self::default();
        for (item, port) in items {
            match port {
                None => push(&mut index.whole, item),
                Some(PortMatch { transport, ports }) => {
                    let key = (*transport, port_key(ports));
                    push(index.by_port.entry(key).or_default(), item);
                }
            }
        }
        index
    }

    /// The items that may include a port, or all ports.
    pub(super) fn candidates<'i>(&'i self, port: Option<&'i PortMatch>) -> Candidates<'i> {
        let mut found: Candidates<'_> = smallvec![self.whole.as_slice()];
        if let Some(PortMatch { transport, ports }) = port {
            let own = port_key(ports);
            let wide = match own {
                PortKey::Any | PortKey::Named(_) => [PortKey::Any].as_slice(),
                PortKey::Range | PortKey::Number(_) => &[PortKey::Any, PortKey::Range],
            };
            let own = Some(own).filter(|own| !wide.contains(own));
            for key in wide.iter().copied().chain(own) {
                found.extend(self.by_port.get(&(*transport, key)).map(SmallVec::as_slice));
            }
        }
        found
    }
}
