//! From policies to the content of the maps.
//!
//! In: the cluster's state and the numbers assigned so far. Out: a [`MapState`], the full desired content of all maps. The
//! stages: `capacity` finds the rules that do not fit; `identity` assigns one identity to all addresses that the same peer
//! sets hold; `allow_map` resolves the precedence of the rules of each endpoint into one verdict for each identity, protocol
//! and port. [`compile`] does all of it from nothing, and is the reference for [`Compiled`], which repeats only the stages
//! that a change affects. Must not: depend on the current content of the maps (that is `dataplane`'s), or do IO.

mod allow_map;
mod capacity;
mod identity;
mod incremental;
mod map_state;
mod numbering;
mod port_ranges;
mod prefixes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, IfIndex};
use netpol_common::keys::{AddressKey, EndpointValue};
use netpol_common::mac::Mac;

pub use capacity::{
    Capacities, Lack, LeftOut, RefusedServices, Shared, describe, diagnostics, left_out_of_all,
};
pub(crate) use identity::ambiguous;
pub use incremental::{Compiled, MapStateUpdate};
pub use map_state::{
    AllowMap, AllowMapKey, DirectionState, EndpointMapState, MapState, longest_entry,
};
pub use numbering::{Numbering, TEMPORARY};
pub use port_ranges::port_prefixes;

use allow_map::RuleInForce;
use capacity::{Deferred, OwnNode};

use crate::model::Pod;
use crate::resolve::{DefaultVerdict, EndpointPolicy, PeerSet, PolicyRule, Resolver, RuleRef};
use crate::store::{ClusterState, Endpoint, PodEnd};

/// Compiles the state into a map state that can replace `previous` operation by operation (invariant I4).
///
/// The content is a function of `state` alone; the numbers of identities and rules also depend on `numbering`. An identity
/// of `previous` keeps its number, unless its verdicts change while addresses change their identities: then the number would
/// have two meanings during the change, so the identity gets a fresh one.
pub fn compile(state: &ClusterState, numbering: &mut Numbering, previous: &MapState) -> MapState {
    compile_within(state, numbering, previous, &Capacities::default()).map_state
}

/// Result of [`compile_within`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compilation {
    /// The desired content of the maps.
    pub map_state: MapState,
    /// The rules that exceed the capacity of the maps.
    pub left_out: LeftOut,
    /// The Services that do.
    pub refused: RefusedServices,
}

/// [`compile`] for maps of any size.
pub fn compile_within(
    state: &ClusterState,
    numbering: &mut Numbering,
    previous: &MapState,
    capacities: &Capacities,
) -> Compilation {
    let resolved = resolve(state);
    let mut compilation = build(state, &resolved, numbering, capacities);
    let ambiguous = ambiguous(previous, &compilation.map_state);
    if !ambiguous.is_empty() {
        numbering.retire(&ambiguous);
        compilation = build(state, &resolved, numbering, capacities);
    }
    numbering.retain(&compilation.map_state);
    compilation
}

/// An endpoint with its pod and the resolved policies of the pod.
struct Resolved<'a> {
    endpoint: &'a Endpoint,
    pod: Option<(&'a Pod, EndpointPolicy)>,
}

fn resolve(state: &ClusterState) -> Vec<Resolved<'_>> {
    let mut resolver = Resolver::default();
    state
        .endpoints()
        .map(|endpoint| {
            let pod = state.pod_of(endpoint).map(|pod| (pod, resolver.resolve(state, pod)));
            Resolved { endpoint, pod }
        })
        .collect()
}

/// The rules that an allow map is made of, with the verdict where none of them decides.
type Content<'a> = (DefaultVerdict, Vec<&'a Arc<PolicyRule>>);

fn build(
    state: &ClusterState,
    resolved: &[Resolved<'_>],
    numbering: &mut Numbering,
    capacities: &Capacities,
) -> Compilation {
    let rules: BTreeSet<&Arc<PolicyRule>> = resolved
        .iter()
        .filter_map(|resolved| resolved.pod.as_ref())
        .flat_map(|(_, policy)| [&policy.ingress, &policy.egress])
        .filter(|policy| !policy.allows_everything())
        .flat_map(|policy| policy.rules.iter())
        .collect();
    let with_peers = capacity::numbered(rules.iter().copied(), numbering);
    let mut left_out = capacity::left_out(state, with_peers, capacities);
    let in_force = rules.into_iter().filter(|rule| !left_out.contains_key(&rule.source));
    let identities = identity::assign(state, in_force, numbering);
    let mut cut = BTreeSet::new();
    let reduced = capacity::reduced_defer(state, capacities.n_deferred);
    let path = EgressPath::of(reduced.as_ref());
    let Deferred { addresses: defer, refused } =
        reduced.unwrap_or_else(|| capacity::whole_defer(state));
    let OwnNode { keys: own_node, backends: node_backends } =
        capacity::wanted_own_node(state, &capacity::host_ports(state));
    let mut map_state = MapState {
        identities: identities.addresses,
        prefixes: identities.prefixes,
        defer,
        own_node,
        node_backends,
        ..MapState::default()
    };
    let mut by_content: BTreeMap<Content<'_>, Vec<AllowMapKey>> = BTreeMap::new();
    for Resolved { endpoint, pod } in resolved {
        let ifindex = endpoint.ifindex;
        let Some((pod, policy)) = pod else {
            map_state.endpoints.insert(ifindex, EndpointMapState::blocked(&endpoint.container_id));
            continue;
        };
        map_state
            .endpoints
            .insert(ifindex, endpoint_map_state(state, endpoint, (pod, policy), path));
        if endpoint.egress_mark != 0 {
            map_state.egress_marks.insert(endpoint.egress_mark, ifindex);
        }
        map_state.addresses.extend(addresses(state, endpoint, pod, ifindex));
        for direction in Direction::ALL {
            let policy = policy.direction(direction);
            if !policy.allows_everything() {
                let content = (policy.default, policy.rules.iter().collect());
                let users = by_content.entry(content).or_default();
                users.push(AllowMapKey::new(ifindex, direction));
            }
        }
    }

    let members = |peers: &Arc<PeerSet>| {
        identities.members.get(peers).map_or([].as_slice(), Vec::as_slice).iter()
    };
    let mut wants: BTreeMap<&RuleRef, usize> = BTreeMap::new();
    for rule in by_content.keys().flat_map(|(_, rules)| rules) {
        if !left_out.contains_key(&rule.source) {
            let n_peers = rule.peers.as_ref().map_or(1, |peers| members(peers).count());
            let n_wanted = wants.entry(&rule.source).or_default();
            *n_wanted += n_peers * allow_map::n_entries(&rule.ports);
        }
    }
    let crowded_out = capacity::crowded_out(&Vec::from_iter(wants), capacities);
    for ((default, rules), users) in &by_content {
        let rules: Vec<_> = rules
            .iter()
            .filter_map(|rule| {
                let id = numbering.rule_id(&rule.source);
                RuleInForce::new(id, rule, rule.peers.as_ref(), [&left_out, &crowded_out])
            })
            .collect();
        let capacity = capacities.n_allow_entries;
        let built = allow_map::build(rules.iter().copied(), *default, members, capacity);
        cut.extend(built.left_out);
        let map = Arc::new(built.map);
        map_state.allow.extend(users.iter().map(|key| (*key, Arc::clone(&map))));
    }
    left_out.extend(crowded_out);
    for rule in cut {
        left_out.entry(rule).or_insert(Lack::AllowEntries);
    }
    Compilation { map_state, left_out, refused }
}

/// The destinations whose egress verdict is deferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum EgressPath {
    /// Those in DEFER.
    #[default]
    ByAddress,
    /// All, because DEFER lacks some addresses.
    AllDeferred,
}

impl EgressPath {
    fn of(reduced: Option<&Deferred>) -> Self {
        if reduced.is_some() { Self::AllDeferred } else { Self::ByAddress }
    }
}

fn endpoint_map_state(
    state: &ClusterState,
    endpoint: &Endpoint,
    (pod, policy): (&Pod, &EndpointPolicy),
    path: EgressPath,
) -> EndpointMapState {
    let is_permitted = state.namespace(&pod.name.namespace).is_some_and(|n| n.allows_forwarding);
    let bits = |is_set: &dyn Fn(Direction) -> bool| {
        Direction::ALL.into_iter().filter(|direction| is_set(*direction)).map(Direction::bit).sum()
    };
    let defers_all = path == EgressPath::AllDeferred && !policy.egress.allows_everything();
    let node_needs_rule = state.judges_own_node() && !policy.egress.allows_everything();
    let trait_if = |is_set: bool, bit| if is_set { bit } else { 0 };
    // The MAC address tells whether a frame is for the pod itself.
    let takes_short_cut = state.takes_short_cut(endpoint.ifindex)
        && !pod.declines_short_cut
        && !pod.allows_forwarding
        && endpoint.pod_end.mac != Mac::UNKNOWN;
    let value = EndpointValue {
        state: EndpointValue::READY,
        isolated: bits(&|direction| !policy.direction(direction).allows_everything()),
        audited: bits(&|direction| policy.direction(direction).is_audited()),
        denies: bits(&|direction| policy.direction(direction).denies),
        keeps_flows: bits(&|direction| policy.direction(direction).keeps_flows),
        traits: trait_if(pod.allows_forwarding && is_permitted, EndpointValue::FORWARDS)
            | trait_if(defers_all, EndpointValue::DEFERS_ALL)
            | trait_if(policy.egress.has_deny() || node_needs_rule, EndpointValue::JUDGES_NODE)
            | trait_if(node_needs_rule, EndpointValue::NODE_NEEDS_RULE)
            | trait_if(takes_short_cut, EndpointValue::SHORT_CUT),
        egress_mark: endpoint.egress_mark,
    };
    let container_id = Arc::clone(&endpoint.container_id);
    EndpointMapState { value, container_id, mac: endpoint.pod_end.mac }
}

/// The source addresses that a pod may use: those that the runtime gave its interface, those that the API reports, and the
/// link-local address that its kernel generates from its MAC address.
fn addresses(
    state: &ClusterState,
    endpoint: &Endpoint,
    pod: &Pod,
    ifindex: IfIndex,
) -> impl Iterator<Item = AddressKey> {
    let held: Vec<_> =
        state.held_addresses(pod).chain(endpoint.addresses.iter().copied()).collect();
    let PodEnd { mac, link_local } = &endpoint.pod_end;
    let of_mac = (*mac != Mac::UNKNOWN).then(|| mac.link_local());
    let link_local = link_local.iter().map(|address| Addr(address.octets())).chain(of_mac);
    let held: Vec<_> = held.into_iter().map(Addr::from).chain(link_local).collect();
    let held = held.into_iter();
    held.map(move |addr| AddressKey { ifindex, addr })
}
