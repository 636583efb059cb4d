//! Address blocks and exceptions as one longest-prefix table.
//!
//! Every block and every exception is a node. The signature of a node includes those of its ancestors, so the longest match is
//! the whole answer (invariant I7).

use std::cmp::Ordering;
use std::ops::RangeInclusive;

use hashbrown::HashMap;
use ipnetwork::IpNetwork;
use netpol_common::addr::Addr;
use netpol_common::keys::PrefixKey;
use smallvec::SmallVec;

use super::numbering::{PeerSetId, Signature};
use crate::model::IpBlock;

/// The prefix of all IPv4-mapped addresses in the IPv6 space.
const V4_EDGE: (Addr, u32) = (Addr::from_v4([0; 4]), Addr::V4_PREFIX_BITS as u32);

/// Prefixes with the signature of the addresses for which each is the longest match.
#[derive(Debug, Default)]
pub(super) struct PrefixTable {
    /// By first address, wider prefixes first, so that each follows those that contain it.
    entries: Vec<Entry>,
    /// The distinct signatures.
    signatures: Vec<Signature>,
}

/// A prefix whose signature differs from that of the longest one that contains it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    addr: Addr,
    bits: u32,
    signature: SignatureId,
    /// Index of the longest entry that contains it.
    around: Option<u32>,
}

/// Number of a signature, within one [`PrefixTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SignatureId(u32);

impl SignatureId {
    /// Index in [`PrefixTable::signatures`].
    pub(super) fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A change of the set of blocks in force at the first address of a prefix, in the order of application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    /// All end, at the prefix of IPv4: no IPv6 block holds an IPv4 address.
    AllEnd,
    /// The block at this position begins.
    Begins(u32),
    /// An exception of the block at this position begins.
    Ends(u32),
}

/// A prefix on the path of the walk, with the blocks in force in it.
struct Step {
    addr: Addr,
    bits: u32,
    active: SmallVec<[u32; 4]>,
    /// Index of the longest entry that contains the prefix.
    entry: Option<u32>,
}

impl PrefixTable {
    /// The table of these blocks, each of one peer set.
    pub(super) fn new(blocks: &[(PeerSetId, &IpBlock)]) -> Self {
        let mut marks = Vec::with_capacity(blocks.len() * 2 + 1);
        for ((_, block), index) in blocks.iter().zip(0..) {
            marks.push((node_key(block.cidr), Mark::Begins(index)));
            marks.extend(block.except.iter().map(|hole| (node_key(*hole), Mark::Ends(index))));
        }
        let edge = V4_EDGE;
        if marks.iter().any(|((addr, bits), _)| *bits < edge.1 && covers((*addr, *bits), edge.0)) {
            marks.push((edge, Mark::AllEnd));
        }
        // They are mostly sorted already, or a concatenation of sorted lists.
        marks.sort();
        let mut table = Self::default();
        table.walk(&marks, blocks);
        table.entries.shrink_to_fit();
        table
    }

    /// Visits the marked prefixes with the blocks in force in each.
    fn walk(&mut self, marks: &[((Addr, u32), Mark)], blocks: &[(PeerSetId, &IpBlock)]) {
        let mut path: Vec<Step> = Vec::new();
        let mut ids: HashMap<Signature, SignatureId> = HashMap::new();
        let mut signature = Signature::new();
        for here in marks.chunk_by(|(one, _), (next, _)| one == next) {
            let Some(((addr, bits), _)) = here.first().copied() else { continue };
            while path.pop_if(|step| !covers((step.addr, step.bits), addr)).is_some() {}
            let around = path.last();
            let entry = around.and_then(|step| step.entry);
            let mut active = around.map(|step| step.active.clone()).unwrap_or_default();
            for (_, mark) in here {
                match mark {
                    Mark::AllEnd => active.clear(),
                    Mark::Begins(block) => active.push(*block),
                    // All that end are removed in one pass below, because they may be many.
                    Mark::Ends(_) => {}
                }
            }
            active.retain(|block| {
                here.binary_search_by_key(&Mark::Ends(*block), |(_, mark)| *mark).is_err()
            });
            signature.clear();
            let sets = active.iter().filter_map(|block| blocks.get(usize::try_from(*block).ok()?));
            signature.extend(sets.map(|(id, _)| *id));
            signature.sort_unstable();
            signature.dedup();
            let mut step = Step { addr, bits, active, entry };
            if *signature != *self.signature_at(entry) {
                let next = SignatureId(number(ids.len()));
                let id = *ids.entry_ref(&signature).or_insert(next);
                if id == next {
                    self.signatures.push(signature.clone());
                }
                step.entry = Some(number(self.entries.len()));
                self.entries.push(Entry { addr, bits, signature: id, around: entry });
            }
            path.push(step);
        }
    }

    fn entry(&self, index: Option<u32>) -> Option<&Entry> {
        self.entries.get(usize::try_from(index?).ok()?)
    }

    fn signature_at(&self, entry: Option<u32>) -> &[PeerSetId] {
        self.entry(entry).map_or(&[], |entry| self.signature(entry.signature))
    }

    /// The signature with this number; empty where an exception leaves no set.
    fn signature(&self, id: SignatureId) -> &[PeerSetId] {
        self.signatures.get(id.index()).map_or(&[], Vec::as_slice)
    }

    /// The different signatures, by their numbers.
    pub(super) fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Every prefix with its signature, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PrefixKey, &[PeerSetId])> {
        self.entries.iter().map(|entry| (entry.key(), self.signature(entry.signature)))
    }

    /// The prefixes whose signatures differ between `old` and `new`, or that only one of them has; with the signature in `new`.
    pub(super) fn differences(old: &Self, new: &Self) -> Vec<(PrefixKey, Option<SignatureId>)> {
        let (mut olds, mut news) = (old.entries.as_slice(), new.entries.as_slice());
        let mut found = Vec::new();
        loop {
            let order = match (olds.first(), news.first()) {
                (None, None) => return found,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => (old.addr, old.bits).cmp(&(new.addr, new.bits)),
            };
            let before = if order.is_le() { olds.split_off_first() } else { None };
            let after = if order.is_ge() { news.split_off_first() } else { None };
            let is_same = before.zip(after).is_some_and(|(before, after)| {
                old.signature(before.signature) == new.signature(after.signature)
            });
            if let Some(entry) = after.or(before).filter(|_| !is_same) {
                found.push((entry.key(), after.map(|entry| entry.signature)));
            }
        }
    }

    /// The signature that an address has from blocks alone.
    pub(super) fn lookup(&self, addr: Addr) -> &[PeerSetId] {
        self.lookup_after(addr, &mut 0)
    }

    /// The same for one of many addresses. `n_before` caches the position of the last one, because the next one is mostly near.
    pub(super) fn lookup_after(&self, addr: Addr, n_before: &mut usize) -> &[PeerSetId] {
        let is_before = |index: Option<usize>| Some(self.entries.get(index?)?.addr <= addr);
        let is_here = is_before(n_before.checked_sub(1)) != Some(false)
            && is_before(Some(*n_before)) != Some(true);
        if !is_here {
            *n_before = self.entries.partition_point(|entry| entry.addr <= addr);
        }
        let mut entry = n_before.checked_sub(1).and_then(|last| self.entries.get(last));
        while let Some(found) = entry.filter(|entry| !covers((entry.addr, entry.bits), addr)) {
            entry = self.entry(found.around);
        }
        entry.map_or(&[], |entry| self.signature(entry.signature))
    }
}

impl Entry {
    fn key(&self) -> PrefixKey {
        PrefixKey { prefix_len_bits: self.bits, addr: self.addr }
    }
}

fn number(index: usize) -> u32 {
    // More than four thousand million prefixes do not fit into memory.
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn node_key(network: IpNetwork) -> (Addr, u32) {
    let PrefixKey { addr, prefix_len_bits } =
        PrefixKey::of_network(network.network(), network.prefix());
    (addr, prefix_len_bits)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn network(addr: &str, last: u8, bits: u8) -> IpNetwork {
        let ip = match addr.parse().unwrap() {
            IpAddr::V4(v4) => IpAddr::from((u32::from(v4) + u32::from(last)).to_be_bytes()),
            IpAddr::V6(v6) => IpAddr::from((u128::from(v6) + u128::from(last)).to_be_bytes()),
        };
        let unmasked = IpNetwork::new(ip, bits).unwrap();
        IpNetwork::new(unmasked.network(), bits).unwrap()
    }

    /// Blocks among the sixteen addresses of one family, some around all IPv4 addresses, with holes in them.
    fn block() -> impl Strategy<Value = IpBlock> {
        let bits = |least: u8| {
            (0..=4_u8, 0..=4_u8).prop_map(move |(a, b)| (least + a.min(b), least + a.max(b)))
        };
        let near = prop_oneof![Just(("10.0.0.0", 28)), Just(("fd00::", 124))]
            .prop_flat_map(move |(addr, least)| (Just(addr), bits(least)));
        let wide = prop_oneof![Just((0, 0)), Just((0, 80)), Just((80, 95)), Just((0, 124))]
            .prop_map(|bits| ("::", bits));
        let v4 = (0..=28_u8).prop_map(|bits| ("0.0.0.0", (0, bits)));
        (prop_oneof![4 => near, 1 => wide, 1 => v4], 0..16_u8, any::<bool>()).prop_map(
            |((addr, (bits, hole_bits)), last, has_hole)| IpBlock {
                cidr: network(addr, last, bits),
                except: has_hole.then(|| network(addr, last, hole_bits)).into_iter().collect(),
            },
        )
    }

    fn content(table: &PrefixTable) -> BTreeMap<PrefixKey, Signature> {
        table.iter().map(|(key, signature)| (key, signature.to_vec())).collect()
    }

    fn table(blocks: &[(PeerSetId, IpBlock)]) -> PrefixTable {
        PrefixTable::new(&blocks.iter().map(|(id, block)| (*id, block)).collect::<Vec<_>>())
    }

    proptest! {
        #[test]
        fn an_address_is_in_the_sets_of_the_blocks_that_contain_it(
            blocks in prop::collection::vec((0..4_u32, block()), 0..8),
        ) {
            let table = table(&blocks);
            let ends = ["0.0.0.0", "11.0.0.0", "::", "::1", "8000::", "::fffe:0:0", "fd00::10"];
            let mut ips: Vec<IpAddr> = ends.iter().map(|ip| ip.parse().unwrap()).collect();
            ips.extend((0..16).map(|n| network("10.0.0.0", n, 32).ip()));
            ips.extend((0..16).map(|n| network("fd00::", n, 128).ip()));
            for ip in ips {
                let mut expected: Signature =
                    blocks.iter().filter(|(_, block)| block.contains(ip)).map(|(id, _)| *id).collect();
                expected.sort_unstable();
                expected.dedup();
                prop_assert_eq!(table.lookup(Addr::from(ip)), expected, "{}", ip);
            }
        }

        #[test]
        fn the_differences_lead_from_one_table_to_the_other(
            old in prop::collection::vec((0..3_u32, block()), 0..6),
            new in prop::collection::vec((0..3_u32, block()), 0..6),
        ) {
            let (old, new) = (table(&old), table(&new));
            let mut reached = content(&old);
            for (key, after) in PrefixTable::differences(&old, &new) {
                let before = match after {
                    Some(id) => reached.insert(key, new.signature(id).to_vec()),
                    None => reached.remove(&key),
                };
                prop_assert_ne!(before.as_deref(), after.map(|id| new.signature(id)));
            }
            prop_assert_eq!(reached, content(&new));
        }
    }
}
