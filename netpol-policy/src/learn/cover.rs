//! Few rules that allow certain peers on certain ports and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::workloads::WorkloadSelector;
use crate::model::Transport;

/// Consecutive ports that become a range.
const MIN_RANGE: usize = 3;

/// A peer in a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LearnedPeer {
    /// The pods of a workload.
    Workload {
        /// Its pods.
        selector: WorkloadSelector,
        /// Namespace and name.
        name: String,
    },
    /// A node, and the pods that share its address.
    Node {
        /// Its address.
        block: IpNetwork,
        /// The node, empty if no Node has the address.
        node: String,
        /// Its pods with the host's network.
        pods: Vec<String>,
    },
    /// Addresses outside of the cluster.
    Block(IpNetwork),
}

/// Consecutive ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LearnedPort {
    /// The protocol.
    pub transport: Transport,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedRule {
    /// The peers, with the connections that each has had on any port.
    pub peers: Vec<(LearnedPeer, u64)>,
    /// The ports.
    pub ports: Vec<LearnedPort>,
}

/// Ports with their protocols.
type PortSet = BTreeSet<(Transport, u16)>;
/// Peers, with the connections that each has had.
type Peers = Vec<(LearnedPeer, u64)>;

/// The ports on which a peer was seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) peer: LearnedPeer,
    pub(super) ports: PortSet,
    pub(super) n_connections: u64,
}

/// Rules that allow these peers exactly their ports. Peers with equal ports share a rule; or ports with equal peers do, if that makes
/// fewer rules.
pub(super) fn rules(seen: Vec<Seen>) -> Vec<LearnedRule> {
    let mut by_ports: BTreeMap<PortSet, Peers> = BTreeMap::new();
    for Seen { peer, ports, n_connections } in seen {
        by_ports.entry(ports).or_default().push((peer, n_connections));
    }
    for peers in by_ports.values_mut() {
        *peers = joined(std::mem::take(peers));
    }
    let mut by_peers: BTreeMap<Peers, PortSet> = BTreeMap::new();
    let all: BTreeSet<_> = by_ports.keys().flatten().copied().collect();
    for port in all {
        let having = by_ports.iter().filter(|(ports, _)| ports.contains(&port));
        let mut peers: Vec<_> = having.flat_map(|(_, peers)| peers.iter().cloned()).collect();
        peers.sort();
        by_peers.entry(peers).or_default().insert(port);
    }
    let mut rules: Vec<LearnedRule> = if by_peers.len() < by_ports.len() {
        let rule = |(peers, ports): (_, BTreeSet<_>)| LearnedRule { peers, ports: ranges(&ports) };
        by_peers.into_iter().map(rule).collect()
    } else {
        let rule = |(ports, peers): (BTreeSet<_>, _)| LearnedRule { peers, ports: ranges(&ports) };
        by_ports.into_iter().map(rule).collect()
    };
    rules.sort_by(|a, b| (&a.peers, &a.ports).cmp(&(&b.peers, &b.ports)));
    rules
}

/// The ports in order, with ranges in place of consecutive ones.
fn ranges(ports: &PortSet) -> Vec<LearnedPort> {
    let mut ranges: Vec<LearnedPort> = Vec::new();
    for (transport, port) in ports.iter().copied() {
        match ranges.last_mut() {
            Some(range)
                if range.transport == transport && range.last.checked_add(1) == Some(port) =>
            {
                range.last = port;
            }
            _ => ranges.push(LearnedPort { transport, first: port, last: port }),
        }
    }
    let split = ranges.into_iter().flat_map(|range| {
        let n = usize::from(range.last - range.first) + 1;
        let one = move |port| LearnedPort { first: port, last: port, ..range };
        if n >= MIN_RANGE { vec![range] } else { (range.first..=range.last).map(one).collect() }
    });
    split.collect()
}

/// The peers in order, with one block in place of two that together are it.
fn joined(peers: Peers) -> Peers {
    let mut blocks: BTreeMap<(u8, IpNetwork), u64> = BTreeMap::new();
    let mut others = Vec::new();
    for (peer, n) in peers {
        match peer {
            LearnedPeer::Block(block) => {
                *blocks.entry((u8::MAX - block.prefix(), block)).or_default() += n;
            }
            LearnedPeer::Workload { .. } | LearnedPeer::Node { .. } => others.push((peer, n)),
        }
    }
    let mut kept = Vec::new();
    // The smallest blocks first, because two of them can become one that joins with another.
    while let Some(((_, block), n)) = blocks.pop_first() {
        let sibling = sibling(block).map(|sibling| (u8::MAX - block.prefix(), sibling));
        match sibling.and_then(|sibling| blocks.remove(&sibling)).zip(parent(block)) {
            Some((more, parent)) => {
                *blocks.entry((u8::MAX - parent.prefix(), parent)).or_default() += n + more;
            }
            None => kept.push((LearnedPeer::Block(block), n)),
        }
    }
    others.extend(kept);
    others.sort();
    others
}

/// The block that contains this one and is twice as large.
fn parent(block: IpNetwork) -> Option<IpNetwork> {
    let wider = IpNetwork::new(block.network(), block.prefix().checked_sub(1)?).ok()?;
    IpNetwork::new(wider.network(), wider.prefix()).ok()
}

/// The other half of that block.
fn sibling(block: IpNetwork) -> Option<IpNetwork> {
    let address = match block.network() {
        IpAddr::V4(address) => {
            let bit = 1_u32.checked_shl(32_u32.checked_sub(block.prefix().into())?)?;
            IpAddr::V4(Ipv4Addr::from(u32::from(address) ^ bit))
        }
        IpAddr::V6(address) => {
            let bit = 1_u128.checked_shl(128_u32.checked_sub(block.prefix().into())?)?;
            IpAddr::V6(Ipv6Addr::from(u128::from(address) ^ bit))
        }
    };
    IpNetwork::new(address, block.prefix()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, ports: &[u16]) -> Seen {
        let ports = ports.iter().map(|port| (Transport::Tcp, *port)).collect();
        Seen { peer: LearnedPeer::Block(peer.parse().unwrap()), ports, n_connections: 1 }
    }

    fn text(seen: &[Seen]) -> Vec<String> {
        let rule = |rule: LearnedRule| {
            let peers: Vec<String> = rule
                .peers
                .iter()
                .map(|(peer, n)| match peer {
                    LearnedPeer::Block(block) => format!("{block}*{n}"),
                    LearnedPeer::Workload { .. } | LearnedPeer::Node { .. } => String::new(),
                })
                .collect();
            let ports: Vec<String> =
                rule.ports.iter().map(|port| format!("{}-{}", port.first, port.last)).collect();
            format!("{} : {}", peers.join(" "), ports.join(" "))
        };
        rules(seen.to_vec()).into_iter().map(rule).collect()
    }

    #[test]
    fn peers_with_equal_ports_share_a_rule() {
        let all = [
            seen("10.0.0.1/32", &[80]),
            seen("10.0.0.9/32", &[80, 81]),
            seen("10.1.0.1/32", &[80]),
        ];
        assert_eq!(
            text(&all),
            ["10.0.0.1/32*1 10.1.0.1/32*1 : 80-80", "10.0.0.9/32*1 : 80-80 81-81"]
        );
    }

    #[test]
    fn ports_with_equal_peers_share_a_rule_if_that_makes_fewer() {
        let all =
            [seen("10.0.0.1/32", &[1]), seen("10.0.0.5/32", &[1, 5]), seen("10.0.0.9/32", &[5])];
        assert_eq!(
            text(&all),
            ["10.0.0.1/32*1 10.0.0.5/32*1 : 1-1", "10.0.0.5/32*1 10.0.0.9/32*1 : 5-5"]
        );
    }

    #[test]
    fn blocks_are_joined_only_where_both_halves_were_seen() {
        let all: Vec<Seen> = [
            "10.0.0.0/32",
            "10.0.0.1/32",
            "10.0.0.2/32",
            "10.0.0.3/32",
            "10.0.0.5/32",
            "10.0.0.6/32",
        ]
        .map(|block| seen(block, &[443]))
        .into();
        assert_eq!(text(&all), ["10.0.0.0/30*4 10.0.0.5/32*1 10.0.0.6/32*1 : 443-443"]);
        let all = [seen("fd00::/128", &[443]), seen("fd00::1/128", &[443])];
        assert_eq!(text(&all), ["fd00::/127*2 : 443-443"]);
    }

    #[test]
    fn three_consecutive_ports_are_a_range() {
        assert_eq!(text(&[seen("10.0.0.1/32", &[1, 2, 7, 8, 9])]), ["10.0.0.1/32*1 : 1-1 2-2 7-9"]);
    }
}
