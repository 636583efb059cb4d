//! The capacity of the maps, and the rules and Services that exceed it.
//!
//! In: the rules in force on the node with their peers, the Services, and [`Capacities`]. Out: what exceeds the capacity and
//! is left out. A rule that is left out allows nothing: the pods that its policy selects stay isolated, and other rules are
//! not affected. The choice depends on the current objects alone. Namespaces share a capacity as [`shares`] says. Within a
//! namespace its policies get capacity in turn, the smallest first, so that a large policy never displaces a small one, and
//! within a policy its rules, the smallest first. Must not: use numbers as more than names, or what was in force before.

mod deferred;
mod own_node;
mod shares;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use netpol_common::addr::Addr;
use netpol_common::maps;

pub use deferred::RefusedServices;
pub(super) use deferred::{
    Deferred, reduced as reduced_defer, wanted as wanted_defer, whole as whole_defer,
};
pub(super) use own_node::{OwnNode, host_ports, wanted as wanted_own_node};
pub use shares::Shared;
use shares::{Item, divide};

use super::numbering::{Numbering, PeerSetId};
use crate::model::{Code, Diagnostic, Kind, ObjectName, ObjectRef, Peers};
use crate::resolve::{PeerSet, PolicyKind, PolicyRef, PolicyRule, RuleRef, every_rule};
use crate::store::ClusterState;

/// Rules of one policy that are named one by one.
const MAX_NAMED: usize = 10;

/// The share of the maps that policies and Services may fill.
///
/// A change writes new entries before it removes old ones, so policies fill PREFIXES and an allow map to one half only, and
/// Services DEFER: then any content that fits can replace any other that fits. Addresses of pods move in smaller steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Address blocks and exceptions, of all policies together.
    pub n_prefixes: Shared,
    /// Addresses of pods that peers select, of all policies together. One namespace may select all of them.
    pub n_identities: Shared,
    /// Entries of one allow map: one direction of a pod.
    pub n_allow_entries: usize,
    /// Addresses of Services and of the node.
    pub n_deferred: Shared,
    /// Comparisons of the selectors of peers with label classes and namespaces ([`PeerSet::n_comparisons`]). Bounds the time
    /// and the memory of the agent.
    pub n_comparisons: Shared,
    /// In a cluster with very many label classes, each of them may be compared so many times.
    pub n_times_each: usize,
    /// Entries of all allow maps together; pods that the same policies select have one. Bounds the time of the agent, and its
    /// memory and the kernel's.
    pub n_entries: Shared,
}

impl Capacities {
    /// The comparisons that are allowed in this cluster.
    fn comparisons(&self, state: &ClusterState) -> Shared {
        let Shared { total, of_namespace } = self.n_comparisons;
        let least = state.n_label_classes().saturating_mul(self.n_times_each);
        let factor = least.div_ceil(of_namespace.max(1)).max(1);
        Shared {
            total: total.saturating_mul(factor),
            of_namespace: of_namespace.saturating_mul(factor),
        }
    }
}

impl Default for Capacities {
    fn default() -> Self {
        let [prefixes, identities, allow_entries, deferred] =
            [maps::MAX_PREFIXES, maps::MAX_IDENTITIES, maps::MAX_ALLOW_ENTRIES, maps::MAX_DEFER]
                .map(|capacity| usize::try_from(capacity).unwrap_or(usize::MAX));
        Self {
            n_prefixes: Shared { total: prefixes / 2, of_namespace: prefixes / 4 },
            n_identities: Shared::undivided(identities - identities / 8),
            n_allow_entries: allow_entries / 2,
            n_deferred: Shared { total: deferred / 2, of_namespace: deferred / 8 },
            n_comparisons: Shared { total: 1 << 20, of_namespace: 1 << 18 },
            n_times_each: 16,
            n_entries: Shared { total: 1 << 20, of_namespace: 1 << 18 },
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
    /// The comparisons of its selectors with the labels of pods.
    Comparisons {
        /// Number of comparisons for the rule.
        n_wanted: usize,
    },
    /// Its entries in an allow map, together with those of the other rules for one direction of a pod.
    AllowEntries,
    /// Its entries in all allow maps.
    Entries {
        /// Number of entries for the rule.
        n_wanted: usize,
    },
}

/// The rules that are left out, with the first capacity that each exceeds.
pub type LeftOut = BTreeMap<RuleRef, Lack>;

/// Rules with how much of a capacity each one needs: sorted, each rule once.
pub(super) type Wants<'a> = Vec<(&'a RuleRef, usize)>;

/// The order in which rules of one namespace get capacity, as positions in the list of what each one needs.
pub(super) fn smallest_first(wants: &[(&RuleRef, usize)]) -> Vec<usize> {
    let mut keys = Vec::with_capacity(wants.len());
    let by_policy = wants.chunk_by(|(rule, _), (next, _)| rule.policy == next.policy);
    for (place_of_policy, of_policy) in by_policy.enumerate() {
        let sum = of_policy.iter().fold(0_usize, |sum, (_, n)| sum.saturating_add(*n));
        for (_, n_wanted) in of_policy {
            keys.push((sum, place_of_policy, *n_wanted, keys.len()));
        }
    }
    keys.sort_unstable();
    keys.into_iter().map(|(.., position)| position).collect()
}

/// Whether any peers fit, given the number of their blocks and exceptions and an upper bound of their comparisons, each list of
/// peers counted once.
pub(super) fn fits(
    state: &ClusterState,
    n_blocks: usize,
    n_comparisons: usize,
    capacities: &Capacities,
) -> bool {
    // One more for the prefix of all IPv4 addresses.
    capacities.n_prefixes.fits(n_blocks.saturating_add(1))
        && capacities.comparisons(state).fits(n_comparisons)
        && capacities.n_identities.fits(state.n_addresses())
}

/// Rules with their peers.
struct WithPeers<'a> {
    /// Sorted by rule, then by the number of the peers; each pair once.
    all: Vec<(&'a RuleRef, PeerSetId, &'a PeerSet)>,
}

impl<'a> WithPeers<'a> {
    fn new(mut all: Vec<(&'a RuleRef, PeerSetId, &'a PeerSet)>) -> Self {
        let key = |(rule, set, _): &(&'a RuleRef, PeerSetId, _)| (*rule, *set);
        all.sort_by_key(key);
        all.dedup_by(|one, other| key(one) == key(other));
        Self { all }
    }

    /// The rules that exceed a capacity, sorted, each with how much it needs. `n_units` is what peers need of it.
    fn refused(
        &self,
        shared: Shared,
        n_units: impl Fn(PeerSetId, &PeerSet) -> usize,
    ) -> Vec<(&'a RuleRef, usize)> {
        let sets: Vec<&[_]> = self.all.chunk_by(|(rule, ..), (next, ..)| rule == next).collect();
        let wants: Wants<'_> = sets
            .iter()
            .filter_map(|sets| {
                let n_of_sets = sets.iter().map(|(_, set, peers)| n_units(*set, peers));
                let (rule, ..) = sets.first()?;
                Some((*rule, n_of_sets.fold(0, usize::saturating_add)))
            })
            .collect();
        let units = |position: usize| {
            let sets = sets.get(position).copied().unwrap_or_default();
            sets.iter().map(|(_, set, peers)| (*set, n_units(*set, peers)))
        };
        refused(shared, &wants, units)
    }

    /// The rules whose peers select more addresses of pods than there may be, sorted.
    fn selecting_too_many(&self, state: &ClusterState, n_identities: Shared) -> Vec<&'a RuleRef> {
        let sets = self.all.chunk_by(|(rule, ..), (next, ..)| rule == next);
        let addresses: Vec<(&RuleRef, BTreeSet<Addr>)> = sets
            .filter_map(|sets| {
                let (rule, ..) = sets.first()?;
                let of_pods = sets.iter().flat_map(|(.., peers)| peers.pod_addresses(state));
                Some((*rule, of_pods.map(Addr::from).collect()))
            })
            .collect();
        let wants: Wants<'_> = addresses.iter().map(|(rule, of)| (*rule, of.len())).collect();
        let units = |position: usize| {
            let of_rule = addresses.get(position).map(|(_, addresses)| addresses);
            of_rule.into_iter().flatten().map(|addr| (*addr, 1))
        };
        refused(n_identities, &wants, units).into_iter().map(|(rule, _)| rule).collect()
    }
}

/// The rules that exceed a capacity, with how much they need: sorted. `units` are those of the rule at a position.
fn refused<'a, U: Copy + Eq + Hash, I: Iterator<Item = (U, usize)>>(
    shared: Shared,
    wants: &[(&'a RuleRef, usize)],
    units: impl Fn(usize) -> I,
) -> Vec<(&'a RuleRef, usize)> {
    let items = smallest_first(wants).into_iter().filter_map(|position| {
        let (rule, n_wanted) = wants.get(position)?;
        Some(Item { namespace: &rule.policy.name.namespace, key: position, n_wanted: *n_wanted })
    });
    let mut refused = divide(shared, items, units).refused;
    refused.sort_unstable();
    refused.into_iter().filter_map(|position| wants.get(position).copied()).collect()
}

/// The rules whose peers exceed the capacity. `rules` are the rules in force, possibly repeated, each with the number of its
/// peers.
pub(super) fn left_out<'a>(
    state: &ClusterState,
    rules: impl Iterator<Item = (&'a Arc<PolicyRule>, Option<PeerSetId>)>,
    capacities: &Capacities,
) -> LeftOut {
    let Capacities { n_prefixes, n_identities, .. } = *capacities;
    let mut all = Vec::new();
    let mut n_blocks = 0_usize;
    let mut comparisons: HashMap<PeerSetId, usize> = HashMap::new();
    let mut visited = HashSet::new();
    for (rule, set) in rules {
        if let Some((set, peers)) = set.zip(rule.peers.as_ref())
            && visited.insert(Arc::as_ptr(rule))
        {
            comparisons.entry(set).or_insert_with(|| {
                n_blocks = n_blocks.saturating_add(peers.n_blocks());
                peers.n_comparisons(state)
            });
            all.push((&rule.source, set, &**peers));
        }
    }
    let mut left_out = LeftOut::new();
    let n_comparisons = comparisons.values().fold(0, |sum: usize, n| sum.saturating_add(*n));
    if fits(state, n_blocks, n_comparisons, capacities) {
        return left_out;
    }
    let mut with_peers = WithPeers::new(all);
    // One less for the prefix of all IPv4 addresses.
    let prefixes = Shared { total: n_prefixes.total.saturating_sub(1), ..n_prefixes };
    if !prefixes.fits(n_blocks) {
        let refused = with_peers.refused(prefixes, |_, peers| peers.n_blocks());
        left_out = refused
            .into_iter()
            .map(|(rule, n_wanted)| (rule.clone(), Lack::Prefixes { n_wanted }))
            .collect();
        with_peers.all.retain(|(rule, ..)| !left_out.contains_key(*rule));
    }

    let compared = capacities.comparisons(state);
    if !compared.fits(n_comparisons) {
        let refused = with_peers
            .refused(compared, |set, _| comparisons.get(&set).copied().unwrap_or_default());
        let lack =
            |(rule, n_wanted): (&RuleRef, usize)| (rule.clone(), Lack::Comparisons { n_wanted });
        if left_out.is_empty() {
            left_out = refused.into_iter().map(lack).collect();
        } else {
            left_out.extend(refused.into_iter().map(lack));
        }
    }

    if !n_identities.fits(state.n_addresses()) {
        with_peers.all.retain(|(rule, ..)| !left_out.contains_key(*rule));
        let selecting = with_peers.selecting_too_many(state, n_identities);
        left_out.extend(selecting.into_iter().map(|rule| (rule.clone(), Lack::Identities)));
    }
    left_out
}

/// Rules with the numbers of their peers.
pub(super) fn numbered<'a>(
    rules: impl Iterator<Item = &'a Arc<PolicyRule>>,
    numbering: &mut Numbering,
) -> impl Iterator<Item = (&'a Arc<PolicyRule>, Option<PeerSetId>)> {
    rules.map(|rule| (rule, rule.peers.as_ref().map(|peers| numbering.peer_set(peers))))
}

/// The rules whose entries in all allow maps together exceed the capacity, given how many each one needs.
pub(super) fn crowded_out(wants: &[(&RuleRef, usize)], capacities: &Capacities) -> LeftOut {
    let of_rule = |position: usize| {
        let n_wanted = wants.get(position).map_or(0, |(_, n_wanted)| *n_wanted);
        std::iter::once((position, n_wanted))
    };
    let refused = refused(capacities.n_entries, wants, of_rule).into_iter();
    refused.map(|(rule, n_wanted)| (rule.clone(), Lack::Entries { n_wanted })).collect()
}

/// The rules that exceed the capacity of a node with pods of every policy.
pub fn left_out_of_all(state: &ClusterState, capacities: &Capacities) -> LeftOut {
    let rules = every_rule(state);
    let mut numbering = Numbering::default();
    left_out(state, numbered(rules.iter(), &mut numbering), capacities)
}

/// The field and the message of a finding on a rule that is left out. They are the same on every node.
pub fn describe(rule: &RuleRef, lack: Lack, capacities: &Capacities) -> (String, String) {
    let Capacities { n_prefixes, n_identities, n_allow_entries, n_comparisons, n_entries, .. } =
        capacities;
    let list = Peers::field(rule.direction);
    let field = format!("spec.{}[{}]", rule.direction, rule.index);
    let effect = match rule.policy.kind {
        PolicyKind::NetworkPolicy => "the rule allows nothing",
        PolicyKind::ClusterNetworkPolicy => {
            "the rule matches nothing if it accepts, else it denies everybody on its ports"
        }
    };
    match lack {
        Lack::Prefixes { n_wanted } => (
            format!("{field}.{list}"),
            format!(
                "its {n_wanted} address blocks and exceptions, together with those of smaller policies, exceed {}: {effect} \
                 until there are fewer of them",
                share(n_prefixes, &rule.policy.name.namespace)
            ),
        ),
        Lack::Identities => (
            format!("{field}.{list}"),
            format!(
                "the addresses of the pods that it selects, together with those of smaller policies, exceed {}: {effect} \
                 until it selects fewer",
                share(n_identities, &rule.policy.name.namespace)
            ),
        ),
        Lack::Comparisons { n_wanted } => (
            format!("{field}.{list}"),
            format!(
                "the {n_wanted} comparisons of its selectors with the labels of pods, together with those of smaller policies, \
                 exceed {}: {effect} until it has fewer or narrower selectors, or pods have fewer different labels",
                share(n_comparisons, &rule.policy.name.namespace)
            ),
        ),
        Lack::Entries { n_wanted } => (
            field,
            format!(
                "its {n_wanted} combinations of peers and ports for pods of the node, together with those of smaller policies, \
                 exceed {}: {effect} until there are fewer of them",
                share(n_entries, &rule.policy.name.namespace)
            ),
        ),
        Lack::AllowEntries => (
            field,
            format!(
                "its peers and ports, together with those of smaller policies, exceed the capacity of {n_allow_entries} \
                 entries for one direction of a pod: {effect} there until there are fewer of them"
            ),
        ),
    }
}

/// What a namespace may use, for a message.
fn share(shared: &Shared, namespace: &str) -> String {
    let Shared { total, of_namespace } = shared;
    if namespace.is_empty() {
        format!("the node's {total}")
    } else if of_namespace < total {
        format!(
            "the share of namespace {namespace}, which is at most {of_namespace} of the node's {total}"
        )
    } else {
        format!("the share of namespace {namespace} in the node's {total}")
    }
}

/// The finding on a Service whose addresses exceed the capacity.
fn describe_service(service: &ObjectName, n_addresses: usize, shared: &Shared) -> Diagnostic {
    Diagnostic {
        code: Code::OverCapacity,
        object: ObjectRef { kind: Kind::Service, name: service.clone() },
        field: "spec.externalIPs".to_owned(),
        message: format!(
            "its {n_addresses} addresses, together with those of smaller Services, exceed {}: isolated pods of the node \
             reach every destination by a slower path until there are fewer of them",
            share(shared, &service.namespace)
        ),
    }
}

/// The findings on the policies with rules that are left out, of which some of each are named, and on the Services.
pub fn diagnostics(
    left_out: &LeftOut,
    refused: &RefusedServices,
    capacities: &Capacities,
) -> Vec<Diagnostic> {
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
                    "{n_more} more rules exceed the capacity of the node, and are left out likewise"
                ),
            });
        }
    }
    let shared = &capacities.n_deferred;
    let services = refused.iter();
    found.extend(services.map(|(service, n_wanted)| describe_service(service, *n_wanted, shared)));
    found
}

#[cfg(test)]
mod tests;
