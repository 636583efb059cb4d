//! The rules for one direction of one endpoint as entries of an allow map.
//!
//! In: the rules in force in their order of precedence, and the identities that their peer sets hold. Out: an [`AllowMap`]
//! in which every look-up (identity, protocol, port) gives the verdict of the rule that decides. The kernel looks up the
//! packet's identity and, if it has no entry that matches, [`Identity::ANY`]; a rule for every address is therefore also
//! written for each identity whose own rules decide something else. Rules that all accept need no precedence: their entries
//! are a union ([`union`]). Rules that deny or pass on are resolved first ([`precedence`]).

mod precedence;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::ids::{Identity, PortBe, Protocol, RuleId};
use netpol_common::keys::{AllowKey, AllowValue};

use super::capacity::{self, LeftOut, Wants};
use super::map_state::AllowMap;
use super::port_ranges::{n_port_prefixes, port_prefixes};
use crate::model::{Action, PolicyMode};
use crate::resolve::{DefaultVerdict, PolicyRule, PortSet, RuleRef, Tier};

/// A rule that is in force. `P` stands for a list of peers.
#[derive(Clone, Copy, Debug)]
pub(super) struct RuleInForce<'a, P> {
    id: RuleId,
    source: &'a RuleRef,
    tier: Tier,
    mode: PolicyMode,
    action: Action,
    /// `None` is every address.
    peers: Option<P>,
    ports: &'a PortSet,
}

impl<'a, P> RuleInForce<'a, P> {
    /// A rule with its number and its peers; `None` is every address. If it is left out because its peers exceed the capacity of the maps, an accepting rule is not
    /// in force at all, and any other denies every address on its ports: a rule that is skipped must never open a port.
    pub(super) fn new(
        id: RuleId,
        rule: &'a PolicyRule,
        peers: Option<P>,
        left_out: [&LeftOut; 2],
    ) -> Option<Self> {
        let PolicyRule { tier, priority: _, source, mode, action, peers: _, ports } = rule;
        let is_left_out = left_out.iter().any(|left_out| left_out.contains_key(source));
        let (action, peers) = match action {
            Action::Accept if is_left_out => return None,
            Action::Deny | Action::Pass if is_left_out => (Action::Deny, None),
            Action::Accept | Action::Deny | Action::Pass => (*action, peers),
        };
        Some(Self { id, source, tier: *tier, mode: *mode, action, peers, ports })
    }
}

/// Whether the rule's part of a map is the union of its entries with those of other such rules, because it accepts whatever
/// the other rules do. A rule of an audited NetworkPolicy does if no enforced one isolates the pod.
fn only_adds<P>(rule: &RuleInForce<'_, P>, default: DefaultVerdict) -> bool {
    let counts = match rule.tier {
        Tier::Admin => rule.mode == PolicyMode::Enforce,
        Tier::NetworkPolicy => rule.mode == PolicyMode::Enforce || default == DefaultVerdict::Audit,
        Tier::Baseline => false,
    };
    counts && rule.action == Action::Accept
}

/// An allow map.
pub(super) struct Built {
    pub(super) map: AllowMap,
    /// The rules that exceed its capacity.
    pub(super) left_out: BTreeSet<RuleRef>,
}

/// The allow map of some rules, given in their order of precedence, without those that exceed `capacity`. `default` is the
/// verdict where no rule decides. `members` returns the identities whose addresses are in a peer set.
pub(super) fn build<'a, P: Copy, I: Iterator<Item = &'a Identity>>(
    rules: impl Iterator<Item = RuleInForce<'a, P>> + Clone,
    default: DefaultVerdict,
    members: impl Fn(P) -> I,
    capacity: usize,
) -> Built {
    let is_union =
        default != DefaultVerdict::Allow && rules.clone().all(|rule| only_adds(&rule, default));
    if !is_union {
        let rules: Vec<RuleInForce<'_, P>> = rules.collect();
        return precedence::build(&rules, default, &members, capacity);
    }
    let map = union(rules.clone(), &members, capacity);
    if map.len() <= capacity {
        return Built { map, left_out: BTreeSet::new() };
    }
    let left_out = over_capacity(&rules, &members, capacity);
    let map = union(rules.filter(|rule| !left_out.contains(rule.source)), &members, capacity);
    Built { map, left_out }
}

/// The union of accepting rules, or a part of it that has more entries than `capacity`. If several rules have the same
/// entry, it names the first.
fn union<'a, P: Copy, I: Iterator<Item = &'a Identity>>(
    rules: impl Iterator<Item = RuleInForce<'a, P>>,
    members: &impl Fn(P) -> I,
    capacity: usize,
) -> AllowMap {
    let mut map = AllowMap::new();
    for rule in rules {
        match rule.peers {
            None => open(&mut map, Identity::ANY, rule.ports, rule.id),
            Some(peers) => {
                for identity in members(peers) {
                    if map.len() > capacity {
                        return map;
                    }
                    open(&mut map, *identity, rule.ports, rule.id);
                }
            }
        }
    }
    map
}

/// The accepting rules that exceed the capacity: those that do not fit after all smaller ones, each with all its entries.
fn over_capacity<'a, P: Copy, I: Iterator<Item = &'a Identity>>(
    rules: &(impl Iterator<Item = RuleInForce<'a, P>> + Clone),
    members: &impl Fn(P) -> I,
    capacity: usize,
) -> BTreeSet<RuleRef> {
    let wants = wanted_entries(rules.clone(), members);
    let mut n_free = capacity;
    let in_order = capacity::smallest_first(&wants).into_iter();
    let exceeding = in_order.filter_map(|position| wants.get(position)).filter(|(_, n_wanted)| {
        let rest = n_free.checked_sub(*n_wanted);
        n_free = rest.unwrap_or(n_free);
        rest.is_none()
    });
    exceeding.map(|(rule, _)| (*rule).clone()).collect()
}

/// The number of entries that each rule has in a union, by rule.
fn wanted_entries<'a, P: Copy, I: Iterator<Item = &'a Identity>>(
    rules: impl Iterator<Item = RuleInForce<'a, P>>,
    members: &impl Fn(P) -> I,
) -> Wants<'a> {
    let mut wants: BTreeMap<&RuleRef, usize> = BTreeMap::new();
    for rule in rules {
        let n_peers = rule.peers.map_or(1, |peers| members(peers).count());
        let n_wanted = wants.entry(rule.source).or_default();
        *n_wanted = n_wanted.saturating_add(n_peers.saturating_mul(n_entries(rule.ports)));
    }
    wants.into_iter().collect()
}

/// Number of entries for each peer.
pub(super) fn n_entries(ports: &PortSet) -> usize {
    match ports {
        PortSet::All => 1,
        PortSet::AnyOf(items) => {
            items.iter().map(|item| item.range.map_or(1, n_port_prefixes)).sum()
        }
    }
}

fn open(map: &mut AllowMap, identity: Identity, ports: &PortSet, rule: RuleId) {
    let mut insert = |protocol, port, prefix_len_bits| {
        map.entry(key(identity, protocol, port, prefix_len_bits))
            .or_insert(AllowValue::allow(rule));
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

const fn key(identity: Identity, protocol: Protocol, port: u16, prefix_len_bits: u32) -> AllowKey {
    AllowKey { prefix_len_bits, identity, protocol, pad: 0, port: PortBe::new(port) }
}

#[cfg(test)]
mod tests;
