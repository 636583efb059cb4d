//! Finds rules and peers that others include, without comparing each with each.
//!
//! In: the rules of one direction of a policy. Out: for a rule or peer, the first other one that includes it. Must not: decide
//! what includes what; that is [`super::cover`].

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;
use ipnetwork::IpNetwork;
use smallvec::SmallVec;

use super::cover;
use crate::model::{IpBlock, Peer, Peers, Requirement, Rule};

/// The largest number of requirements of a peer whose parts are looked up one by one.
const MAX_PARTS: usize = 8;

/// Positions of items.
type Items = SmallVec<[usize; 2]>;

/// Items by the peers that they contain.
#[derive(Default)]
struct Index<'a> {
    /// Items that contain every peer.
    whole: Vec<usize>,
    /// By the network of an `ipBlock`, with the prefix lengths that occur, of both families.
    by_network: HashMap<IpNetwork, Items>,
    lengths: BTreeSet<(bool, u8)>,
    /// By the requirements for pods.
    by_requirements: BTreeMap<Vec<&'a Requirement>, Items>,
}

impl<'a> Index<'a> {
    fn add(&mut self, item: usize, peer: &'a Peer) {
        match peer {
            Peer::IpBlock(block) => {
                self.lengths.insert((block.cidr.is_ipv4(), block.cidr.prefix()));
                push(self.by_network.entry(block.cidr).or_default(), item);
            }
            Peer::Pods { namespaces: _, pods } | Peer::Nodes(pods) => {
                let requirements = pods.requirements().collect();
                push(self.by_requirements.entry(requirements).or_default(), item);
            }
        }
    }

    /// The items that may include a peer, in order.
    fn candidates(&self, peer: &Peer) -> Items {
        let mut found = Items::from_slice(&self.whole);
        match peer {
            Peer::IpBlock(IpBlock { cidr, except: _ }) => {
                let of_family = (cidr.is_ipv4(), 0)..=(cidr.is_ipv4(), cidr.prefix());
                for (_, length) in self.lengths.range(of_family) {
                    let wide = IpNetwork::new(cidr.network(), *length);
                    let wide = wide.and_then(|wide| IpNetwork::new(wide.network(), *length));
                    let items = wide.ok().and_then(|wide| self.by_network.get(&wide));
                    found.extend(items.into_iter().flatten().copied());
                }
            }
            Peer::Pods { namespaces: _, pods } | Peer::Nodes(pods) => {
                let requirements: Vec<&Requirement> = pods.requirements().collect();
                if requirements.len() > MAX_PARTS {
                    found.extend(self.by_requirements.values().flatten().copied());
                    found.sort_unstable();
                    return found;
                }
                for chosen in 0_u32..1 << requirements.len() {
                    let part = requirements.iter().enumerate();
                    let part = part.filter(|(at, _)| chosen >> at & 1 == 1);
                    let part: Vec<&Requirement> = part.map(|(_, of)| *of).collect();
                    found.extend(self.by_requirements.get(&part).into_iter().flatten().copied());
                }
            }
        }
        found.sort_unstable();
        found
    }
}

/// Adds an item once: the peers of one item come one after the other.
fn push(items: &mut Items, item: usize) {
    if items.last() != Some(&item) {
        items.push(item);
    }
}

/// The peers of a rule that another peer of it includes, each with the position of the first such peer. Of two equivalent
/// peers, only the later one is included.
pub(super) fn peers(peers: &[Peer]) -> Vec<(usize, usize)> {
    let mut index = Index::default();
    for (position, peer) in peers.iter().enumerate() {
        index.add(position, peer);
    }
    let mut found = Vec::new();
    for (position, peer) in peers.iter().enumerate() {
        let includes = |other: &usize| {
            *other != position
                && peers.get(*other).is_some_and(|wide| {
                    cover::peer(wide, peer) && (*other < position || !cover::peer(peer, wide))
                })
        };
        let other = index.candidates(peer).into_iter().find(|other| includes(other));
        found.extend(other.map(|other| (position, other)));
    }
    found
}

/// The rules that another rule includes, each with the position of the first such rule. Of two equivalent rules, only the later
/// one is included. A rule without a peer is not compared.
pub(super) fn rules(rules: &[Rule]) -> Vec<(usize, usize)> {
    if rules.len() < 2 {
        return Vec::new();
    }
    let mut index = Index::default();
    for (position, rule) in rules.iter().enumerate() {
        match &rule.peers {
            Peers::All => index.whole.push(position),
            Peers::AnyOf(peers) => peers.iter().for_each(|peer| index.add(position, peer)),
        }
    }
    let mut found = Vec::new();
    for (position, rule) in rules.iter().enumerate() {
        let candidates = match &rule.peers {
            Peers::All => Items::from_slice(&index.whole),
            Peers::AnyOf(peers) => {
                peers.first().map(|peer| index.candidates(peer)).unwrap_or_default()
            }
        };
        let includes = |other: &usize| {
            *other != position
                && rules.get(*other).is_some_and(|wide| {
                    cover::rule(wide, rule) && (*other < position || !cover::rule(rule, wide))
                })
        };
        let other = candidates.into_iter().find(|other| includes(other));
        found.extend(other.map(|other| (position, other)));
    }
    found
}
