//! Address blocks and exceptions as one longest-prefix table.
//!
//! Every block and every exception is a node. The signature of a node already holds all that its ancestors give it,
//! so the longest match is the whole answer.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;
use netpol_common::addr::Addr;
use netpol_common::keys::PrefixKey;

use super::numbering::{PeerSetId, Signature};
use crate::model::IpBlock;

/// Prefixes with the signature of the addresses for which each is the longest match.
#[derive(Debug, Default)]
pub(super) struct PrefixTable {
    by_prefix: BTreeMap<PrefixKey, Signature>,
    /// Prefix lengths that occur, to look addresses up.
    lengths: Vec<u32>,
}

/// What happens to the set of blocks that are in force when the walk enters a node.
#[derive(Default)]
struct Node {
    begins: Vec<usize>,
    is_cut_from: Vec<usize>,
}

impl PrefixTable {
    /// The table of these blocks, each of one peer set.
    pub(super) fn new(blocks: &[(PeerSetId, &IpBlock)]) -> Self {
        let mut table = Self::default();
        for is_v4 in [false, true] {
            let mut nodes: BTreeMap<(Addr, u32), Node> = BTreeMap::new();
            for (index, (_, block)) in blocks.iter().enumerate() {
                if block.cidr.is_ipv4() == is_v4 {
                    nodes.entry(node_key(block.cidr)).or_default().begins.push(index);
                    for hole in &block.except {
                        nodes.entry(node_key(*hole)).or_default().is_cut_from.push(index);
                    }
                }
            }
            table.walk(&nodes, blocks);
        }
        table.shield_v4();
        table.lengths = table.by_prefix.keys().map(|key| key.prefix_len_bits).collect();
        table.lengths.sort_unstable();
        table.lengths.dedup();
        table
    }

    /// Visits the nodes of one family, ancestors first, with the blocks in force at each.
    fn walk(&mut self, nodes: &BTreeMap<(Addr, u32), Node>, blocks: &[(PeerSetId, &IpBlock)]) {
        let mut path: Vec<((Addr, u32), Vec<usize>, Signature)> = Vec::new();
        for ((addr, bits), node) in nodes {
            while path.pop_if(|(ancestor, _, _)| !covers(*ancestor, *addr)).is_some() {}
            let (mut active, inherited) =
                path.last().map_or_else(Default::default, |(_, active, signature)| {
                    (active.clone(), signature.clone())
                });
            active.extend(&node.begins);
            active.retain(|block| !node.is_cut_from.contains(block));
            let mut signature: Signature =
                active.iter().filter_map(|block| blocks.get(*block)).map(|(id, _)| *id).collect();
            signature.sort_unstable();
            signature.dedup();
            if signature != inherited {
                let key = PrefixKey { prefix_len_bits: *bits, addr: *addr };
                self.by_prefix.insert(key, signature.clone());
            }
            path.push(((*addr, *bits), active, signature));
        }
    }

    /// IPv4 lives inside the IPv6 space, but no IPv6 block holds an IPv4 address: an IPv6 block around the mapped
    /// range ends at its edge.
    fn shield_v4(&mut self) {
        let edge = (Addr::from_v4([0; 4]), u32::from(Addr::V4_PREFIX_BITS));
        let is_around = |key: &PrefixKey| {
            key.prefix_len_bits < edge.1 && covers((key.addr, key.prefix_len_bits), edge.0)
        };
        if self.by_prefix.keys().any(is_around) {
            let key = PrefixKey { prefix_len_bits: edge.1, addr: edge.0 };
            self.by_prefix.entry(key).or_default();
        }
    }

    /// Every prefix with its signature, which is empty where an exception leaves nothing.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&PrefixKey, &Signature)> {
        self.by_prefix.iter()
    }

    /// The signature of a prefix that is in the table.
    pub(super) fn get(&self, key: &PrefixKey) -> Option<&Signature> {
        self.by_prefix.get(key)
    }

    /// The signature that an address has from blocks alone.
    pub(super) fn lookup(&self, addr: Addr) -> &[PeerSetId] {
        self.lengths
            .iter()
            .rev()
            .find_map(|bits| {
                let key = PrefixKey { prefix_len_bits: *bits, addr: masked(addr, *bits) };
                self.by_prefix.get(&key)
            })
            .map_or(&[], Vec::as_slice)
    }
}

fn node_key(network: IpNetwork) -> (Addr, u32) {
    let offset = if network.is_ipv4() { Addr::V4_PREFIX_BITS } else { 0 };
    let bits = u32::from(network.prefix()) + u32::from(offset);
    (masked(Addr::from(network.network()), bits), bits)
}

/// The addresses of these networks, as ranges that do not touch.
pub(super) fn ranges(networks: impl Iterator<Item = IpNetwork>) -> Vec<RangeInclusive<Addr>> {
    let mut all: Vec<(u128, u128)> = networks
        .map(|network| {
            let (addr, bits) = node_key(network);
            let first = u128::from_be_bytes(addr.0);
            (first, first | !u128::MAX.checked_shl(128 - bits).unwrap_or(0))
        })
        .collect();
    all.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in all {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    let addr = |bits: u128| Addr(bits.to_be_bytes());
    merged.into_iter().map(|(first, last)| addr(first)..=addr(last)).collect()
}

fn masked(addr: Addr, bits: u32) -> Addr {
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    Addr((u128::from_be_bytes(addr.0) & mask).to_be_bytes())
}

fn covers((prefix, bits): (Addr, u32), addr: Addr) -> bool {
    masked(addr, bits) == prefix
}
