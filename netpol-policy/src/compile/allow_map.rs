//! One direction of one endpoint as entries of an allow map.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::ids::{Identity, PortBe, Protocol, RuleId};
use netpol_common::keys::{AllowKey, AllowValue};

use super::capacity;
use super::map_state::AllowMap;
use super::port_ranges::port_prefixes;
use crate::resolve::{AllowRule, PeerSet, PortSet, RuleRef};

/// An allow map.
pub(super) struct Built {
    pub(super) map: AllowMap,
    /// The rules that find no room in it.
    pub(super) left_out: BTreeSet<RuleRef>,
}

/// The union of the allow rules, each with its rule's number, but for rules that find no room. Where several rules open the
/// same entry, the first one is named. `members` tells the identities whose addresses are in a peer set.
pub(super) fn build<'a, I: Iterator<Item = &'a Identity>>(
    allow_rules: impl Iterator<Item = (RuleId, &'a Arc<AllowRule>)> + Clone,
    members: impl Fn(&Arc<PeerSet>) -> I,
    capacity: usize,
) -> Built {
    let map = union(allow_rules.clone(), &members, capacity);
    if map.len() <= capacity {
        return Built { map, left_out: BTreeSet::new() };
    }
    let left_out = squeeze(&allow_rules, &members, capacity);
    let map = union(allow_rules.filter(|(_, of)| !left_out.contains(&of.rule)), &members, capacity);
    Built { map, left_out }
}

/// The union of the allow rules, or some of it that has more entries than `capacity`.
fn union<'a, I: Iterator<Item = &'a Identity>>(
    allow_rules: impl Iterator<Item = (RuleId, &'a Arc<AllowRule>)>,
    members: &impl Fn(&Arc<PeerSet>) -> I,
    capacity: usize,
) -> AllowMap {
    let mut map = AllowMap::new();
    for (rule, allow_rule) in allow_rules {
        match &allow_rule.peers {
            None => open(&mut map, Identity::ANY, &allow_rule.ports, rule),
            Some(peers) => {
                for identity in members(peers) {
                    if map.len() > capacity {
                        return map;
                    }
                    open(&mut map, *identity, &allow_rule.ports, rule);
                }
            }
        }
    }
    map
}

/// The rules that find no room.
fn squeeze<'a, I: Iterator<Item = &'a Identity>>(
    allow_rules: &(impl Iterator<Item = (RuleId, &'a Arc<AllowRule>)> + Clone),
    members: &impl Fn(&Arc<PeerSet>) -> I,
    capacity: usize,
) -> BTreeSet<RuleRef> {
    let mut wants: BTreeMap<&RuleRef, usize> = BTreeMap::new();
    for (_, allow_rule) in allow_rules.clone() {
        let n_peers = allow_rule.peers.as_ref().map_or(1, |peers| members(peers).count());
        let n_wanted = wants.entry(&allow_rule.rule).or_default();
        *n_wanted = n_wanted.saturating_add(n_peers.saturating_mul(n_entries(&allow_rule.ports)));
    }
    let mut taken = BTreeSet::new();
    let mut left_out = BTreeSet::new();
    for rule in capacity::smallest_first(&wants) {
        let of_rule = allow_rules.clone().filter(|(_, allow_rule)| allow_rule.rule == *rule);
        let wanted = union(of_rule, members, capacity);
        let n_new = wanted.keys().filter(|key| !taken.contains(*key)).count();
        if taken.len() + n_new > capacity {
            left_out.insert(rule.clone());
        } else {
            taken.extend(wanted.into_keys());
        }
    }
    left_out
}

/// Entries for each peer.
fn n_entries(ports: &PortSet) -> usize {
    match ports {
        PortSet::All => 1,
        PortSet::AnyOf(items) => {
            items.iter().map(|item| item.range.map_or(1, |range| port_prefixes(range).len())).sum()
        }
    }
}

fn open(map: &mut AllowMap, identity: Identity, ports: &PortSet, rule: RuleId) {
    let mut insert = |protocol, port, prefix_len_bits| {
        let key = AllowKey { prefix_len_bits, identity, protocol, pad: 0, port: PortBe::new(port) };
        map.entry(key).or_insert(AllowValue::allow(rule));
    };
    match ports {
        PortSet::All => insert(Protocol(0), 0, AllowKey::ALL_PROTOCOLS_BITS),
        PortSet::AnyOf(items) => {
            for item in items {
                let protocol = item.transport.to_wire();
                match item.range {
                    None => insert(protocol, 0, AllowKey::ALL_PORTS_BITS),
                    Some(range) => {
                        for (port, bits) in port_prefixes(range) {
                            insert(protocol, port, AllowKey::ALL_PORTS_BITS + bits);
                        }
                    }
                }
            }
        }
    }
}
