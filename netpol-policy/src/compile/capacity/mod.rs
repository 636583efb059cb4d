//! The capacity of the maps, and the rules that exceed it.
//!
//! In: the rules in force on the node with their peers, and [`Capacities`]. Out: the rules that exceed the capacity and are
//! left out. A rule that is left out allows nothing: the pods that its policy selects stay isolated, and other rules are not
//! affected. The choice depends on the current objects alone. Capacity is given to policies in turn, the smallest first, so
//! that a large policy never displaces a small one, and within a policy to its rules, the smallest first. A block or an
//! address that an earlier rule already needs costs nothing more. Must not: use numbers, or what was in force before.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::Direction;
use netpol_common::maps;

use super::prefixes::{V4_EDGE, nodes};
use crate::model::{Code, Diagnostic, ObjectRef};
use crate::resolve::{PeerSet, PolicyRef, RuleRef, peer_set, rule_ref};
use crate::store::ClusterState;

/// Rules of one policy that are named one by one.
const MAX_NAMED: usize = 10;

/// The share of the maps that policies may fill.
///
/// A change writes new entries before it removes old ones, so policies fill PREFIXES and an allow map to one half only: then
/// any content that fits can replace any other that fits. Addresses of pods move in smaller steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Address blocks and exceptions, of all policies together.
    pub n_prefixes: usize,
    /// Addresses of pods that peers select, of all policies together.
    pub n_identities: usize,
    /// Entries of one allow map: one direction of a pod.
    pub n_allow_entries: usize,
}

impl Default for Capacities {
    fn default() -> Self {
        let [prefixes, identities, allow_entries] =
            [maps::MAX_PREFIXES, maps::MAX_IDENTITIES, maps::MAX_ALLOW_ENTRIES]
                .map(|capacity| usize::try_from(capacity).unwrap_or(usize::MAX));
        Self {
            n_prefixes: prefixes / 2,
            n_identities: identities - identities / 8,
            n_allow_entries: allow_entries / 2,
        }
    }
}

/// The capacity that a rule exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// Its address blocks and exceptions.
    Prefixes {
        /// Number of blocks and exceptions of the rule.
        n_wanted: usize,
    },
    /// The addresses of the pods that its peers select.
    Identities,
    /// Its entries in an allow map, together with those of the other rules for one direction of a pod.
    AllowEntries,
}

/// The rules that are left out, with the first capacity that each exceeds.
pub type LeftOut = BTreeMap<RuleRef, Lack>;

/// The order in which rules get capacity, given how much each one needs.
pub(super) fn smallest_first<'a>(wants: &BTreeMap<&'a RuleRef, usize>) -> Vec<&'a RuleRef> {
    let mut by_policy: BTreeMap<&PolicyRef, usize> = BTreeMap::new();
    for (rule, n_wanted) in wants {
        let sum = by_policy.entry(&rule.policy).or_default();
        *sum = sum.saturating_add(*n_wanted);
    }
    let mut rules: Vec<(usize, usize, &RuleRef)> = wants
        .iter()
        .map(|(rule, n_wanted)| {
            (by_policy.get(&rule.policy).copied().unwrap_or_default(), *n_wanted, *rule)
        })
        .collect();
    rules.sort_unstable_by(|(policy, size, rule), (other_policy, other_size, other)| {
        (policy, &rule.policy, size, rule).cmp(&(other_policy, &other.policy, other_size, other))
    });
    rules.into_iter().map(|(_, _, rule)| rule).collect()
}

/// Whether any peers fit, given the total number of their blocks and exceptions.
pub(super) fn fits(state: &ClusterState, n_blocks: usize, capacities: &Capacities) -> bool {
    // One more for the prefix of all IPv4 addresses.
    n_blocks < capacities.n_prefixes && state.n_addresses() <= capacities.n_identities
}

/// The rules whose peers exceed the capacity. `rules` are the rules in force, each with each of its peer sets; repetitions do
/// no harm.
pub(super) fn left_out<'a>(
    state: &ClusterState,
    rules: impl Iterator<Item = (&'a RuleRef, &'a Arc<PeerSet>)> + Clone,
    capacities: &Capacities,
) -> LeftOut {
    let Capacities { n_prefixes, n_identities, n_allow_entries: _ } = *capacities;
    let n_blocks = rules.clone().map(|(_, peers)| peers.n_blocks()).sum();
    if fits(state, n_blocks, capacities) {
        return LeftOut::new();
    }
    let mut peers_of: BTreeMap<&RuleRef, Vec<&PeerSet>> = BTreeMap::new();
    let mut visited = HashSet::new();
    for (rule, peers) in rules {
        if visited.insert((Arc::as_ptr(peers), rule)) {
            let known = peers_of.entry(rule).or_default();
            if !known.contains(&&**peers) {
                known.push(peers);
            }
        }
    }
    let mut left_out = LeftOut::new();
    let n_blocks = |peers: &[&PeerSet]| peers.iter().map(|set| set.n_blocks()).sum();
    let wants: BTreeMap<&RuleRef, usize> =
        peers_of.iter().map(|(rule, peers)| (*rule, n_blocks(peers))).collect();
    let blocks = |rule: &RuleRef| {
        let sets = peers_of.get(rule).map_or([].as_slice(), Vec::as_slice);
        sets.iter().flat_map(|set| set.blocks()).flat_map(nodes)
    };
    for rule in squeeze(&wants, HashSet::from([V4_EDGE]), n_prefixes, blocks) {
        let n_wanted = wants.get(rule).copied().unwrap_or_default();
        left_out.insert(rule.clone(), Lack::Prefixes { n_wanted });
    }

    if state.n_addresses() <= n_identities {
        return left_out;
    }
    peers_of.retain(|rule, _| !left_out.contains_key(*rule));
    let addresses: BTreeMap<&RuleRef, BTreeSet<Addr>> = peers_of
        .iter()
        .map(|(rule, peers)| {
            let of_pods = peers.iter().flat_map(|set| set.pod_addresses(state));
            (*rule, of_pods.map(Addr::from).collect())
        })
        .collect();
    let wants = addresses.iter().map(|(rule, addresses)| (*rule, addresses.len())).collect();
    let of_rule = |rule: &RuleRef| addresses.get(rule).into_iter().flatten().copied();
    for rule in squeeze(&wants, HashSet::new(), n_identities, of_rule) {
        left_out.insert(rule.clone(), Lack::Identities);
    }
    left_out
}

/// Gives capacity to the rules in turn, in addition to the items `taken` already. Returns the rules that exceed it.
fn squeeze<'a, T: Copy + Eq + std::hash::Hash, I: Iterator<Item = T>>(
    wants: &BTreeMap<&'a RuleRef, usize>,
    mut taken: HashSet<T>,
    capacity: usize,
    wanted: impl Fn(&RuleRef) -> I,
) -> Vec<&'a RuleRef> {
    let n_wanted = wants.values().fold(taken.len(), |sum, n| sum.saturating_add(*n));
    if n_wanted <= capacity {
        return Vec::new();
    }
    let mut without = Vec::new();
    for rule in smallest_first(wants) {
        let n_free = capacity.saturating_sub(taken.len());
        let mut new = HashSet::new();
        for item in wanted(rule).filter(|item| !taken.contains(item)) {
            if new.insert(item) && new.len() > n_free {
                break;
            }
        }
        if new.len() > n_free {
            without.push(rule);
        } else {
            taken.extend(new);
        }
    }
    without
}

/// The rules that exceed the capacity of a node with pods of every policy.
pub fn left_out_of_all(state: &ClusterState, capacities: &Capacities) -> LeftOut {
    let mut rules: Vec<(RuleRef, Arc<PeerSet>)> = Vec::new();
    for policy in state.policies() {
        for direction in Direction::ALL {
            if !policy.policy_types.contains(direction) {
                continue;
            }
            for rule in policy.rules(direction) {
                let reference = rule_ref(policy, direction, rule);
                rules.extend(peer_set(policy, rule).map(|peers| (reference, Arc::new(peers))));
            }
        }
    }
    left_out(state, rules.iter().map(|(rule, peers)| (rule, peers)), capacities)
}

/// The field and the message of a finding on a rule that is left out. They are the same on every node.
pub fn describe(rule: &RuleRef, lack: Lack, capacities: &Capacities) -> (String, String) {
    let Capacities { n_prefixes, n_identities, n_allow_entries } = capacities;
    let list = match rule.direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let field = format!("spec.{}[{}]", rule.direction, rule.index);
    match lack {
        Lack::Prefixes { n_wanted } => (
            format!("{field}.{list}"),
            format!(
                "its {n_wanted} address blocks and exceptions, together with those of smaller policies, exceed the node's \
                 capacity of {n_prefixes}: the rule allows nothing"
            ),
        ),
        Lack::Identities => (
            format!("{field}.{list}"),
            format!(
                "the addresses of the pods that it selects, together with those of smaller policies, exceed the node's \
                 capacity of {n_identities}: the rule allows nothing"
            ),
        ),
        Lack::AllowEntries => (
            field,
            format!(
                "its peers and ports, together with those of smaller policies, exceed the capacity of {n_allow_entries} \
                 entries for one direction of a pod: the rule allows nothing there"
            ),
        ),
    }
}

/// The findings on the policies with rules that are left out: some rules of each are named.
pub fn diagnostics(left_out: &LeftOut, capacities: &Capacities) -> Vec<Diagnostic> {
    let mut by_policy: BTreeMap<&PolicyRef, Vec<(&RuleRef, Lack)>> = BTreeMap::new();
    for (rule, lack) in left_out {
        by_policy.entry(&rule.policy).or_default().push((rule, *lack));
    }
    let mut found = Vec::new();
    for (policy, rules) in by_policy {
        let object = ObjectRef { kind: policy.kind.into(), name: policy.name.clone() };
        for (rule, lack) in rules.iter().take(MAX_NAMED) {
            let (field, message) = describe(rule, *lack, capacities);
            let object = object.clone();
            found.push(Diagnostic { code: Code::OverCapacity, object, field, message });
        }
        if let Some(n_more @ 1..) = rules.len().checked_sub(MAX_NAMED) {
            found.push(Diagnostic {
                code: Code::OverCapacity,
                object,
                field: "spec".to_owned(),
                message: format!(
                    "{n_more} more rules exceed the capacity of the node, and allow nothing"
                ),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests;
