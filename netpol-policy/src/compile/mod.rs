//! From policies to the content of the maps.
//!
//! In: the cluster's state and the numbers given so far. Out: an [`MapState`], the full desired content of all maps.
//! Must not: know what the maps hold now (that is `dataplane`'s), or do IO.

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

pub use capacity::{Capacities, Lack, LeftOut, describe, diagnostics, left_out_of_all};
pub use incremental::{Compiled, MapStateUpdate};
pub use map_state::{AllowMap, AllowMapKey, EndpointMapState, MapState};
pub use numbering::Numbering;
pub use port_ranges::port_prefixes;

use crate::model::Pod;
use crate::resolve::{AllowRule, EndpointPolicy, Isolation, PeerSet, Resolver};
use crate::store::{ClusterState, Endpoint};

/// Compiles the state into an image that can follow `previous` without a moment in which neither holds.
///
/// The content is a function of `state` alone, the numbers of identities and rules also of `numbering`. An identity
/// that `previous` knows keeps its number, unless addresses change hands while its meaning changes: then the same
/// number would mean two things on the way, so it gets a fresh one.
pub fn compile(state: &ClusterState, numbering: &mut Numbering, previous: &MapState) -> MapState {
    compile_within(state, numbering, previous, &Capacities::default()).map_state
}

/// What [`compile_within`] makes of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compilation {
    /// What the maps should hold.
    pub map_state: MapState,
    /// The rules for which they have no room.
    pub left_out: LeftOut,
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
    let ambiguous = identity::ambiguous(previous, &compilation.map_state);
    if !ambiguous.is_empty() {
        numbering.retire(&ambiguous);
        compilation = build(state, &resolved, numbering, capacities);
    }
    numbering.retain(&compilation.map_state);
    compilation
}

/// An endpoint with its pod and what the policies mean for it.
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

fn build(
    state: &ClusterState,
    resolved: &[Resolved<'_>],
    numbering: &mut Numbering,
    capacities: &Capacities,
) -> Compilation {
    let allow_rules: BTreeSet<&Arc<AllowRule>> = resolved
        .iter()
        .filter_map(|resolved| resolved.pod.as_ref())
        .flat_map(|(_, policy)| policy.ingress.allow_rules.iter().chain(&policy.egress.allow_rules))
        .collect();
    let rules = allow_rules
        .iter()
        .filter_map(|allow_rule| Some((&allow_rule.rule, allow_rule.peers.as_ref()?)));
    let mut left_out = capacity::left_out(state, rules, capacities);
    let in_force =
        allow_rules.into_iter().filter(|allow_rule| !left_out.contains_key(&allow_rule.rule));
    let identities = identity::assign(state, in_force, numbering);
    let mut cut = BTreeSet::new();

    let mut map_state = MapState {
        identities: identities.addresses,
        prefixes: identities.prefixes,
        defer: deferred(state),
        ..MapState::default()
    };
    let mut shared: BTreeMap<Vec<&Arc<AllowRule>>, Arc<AllowMap>> = BTreeMap::new();
    for Resolved { endpoint, pod } in resolved {
        let ifindex = endpoint.ifindex;
        let Some((pod, policy)) = pod else {
            map_state.endpoints.insert(ifindex, EndpointMapState::blocked(&endpoint.container_id));
            continue;
        };
        map_state.endpoints.insert(ifindex, endpoint_map_state(endpoint, pod, policy));
        if endpoint.egress_mark != 0 {
            map_state.egress_marks.insert(endpoint.egress_mark, ifindex);
        }
        map_state.addresses.extend(addresses(state, endpoint, pod, ifindex));
        for direction in Direction::ALL {
            let policy = policy.direction(direction);
            if policy.isolation == Isolation::None {
                continue;
            }
            let map = shared.entry(policy.allow_rules.iter().collect()).or_insert_with(|| {
                let members = |peers: &Arc<PeerSet>| {
                    identities.members.get(peers).map_or([].as_slice(), Vec::as_slice).iter()
                };
                let in_force = policy.allow_rules.iter();
                let in_force =
                    in_force.filter(|allow_rule| !left_out.contains_key(&allow_rule.rule));
                let allow_rules: Vec<_> = in_force
                    .map(|allow_rule| (numbering.rule_id(&allow_rule.rule), allow_rule))
                    .collect();
                let built =
                    allow_map::build(allow_rules.into_iter(), members, capacities.n_allow_entries);
                cut.extend(built.left_out);
                Arc::new(built.map)
            });
            map_state.allow.insert(AllowMapKey::new(ifindex, direction), Arc::clone(map));
        }
    }
    left_out.extend(cut.into_iter().map(|rule| (rule, Lack::AllowEntries)));
    Compilation { map_state, left_out }
}

fn endpoint_map_state(endpoint: &Endpoint, pod: &Pod, policy: &EndpointPolicy) -> EndpointMapState {
    let bits = |is_set: &dyn Fn(Direction) -> bool| {
        Direction::ALL.into_iter().filter(|direction| is_set(*direction)).map(Direction::bit).sum()
    };
    let value = EndpointValue {
        state: EndpointValue::READY,
        isolated: bits(&|direction| policy.direction(direction).isolation != Isolation::None),
        audited: bits(&|direction| policy.direction(direction).isolation == Isolation::Audited),
        keeps_flows: bits(&|direction| policy.direction(direction).keeps_flows),
        traits: if pod.allows_forwarding { EndpointValue::FORWARDS } else { 0 },
        pad: 0,
        egress_mark: endpoint.egress_mark,
    };
    EndpointMapState { value, container_id: Arc::clone(&endpoint.container_id) }
}

/// What a pod may send from: what the runtime gave its interface, and what the API says.
fn addresses(
    state: &ClusterState,
    endpoint: &Endpoint,
    pod: &Pod,
    ifindex: IfIndex,
) -> impl Iterator<Item = AddressKey> {
    let held: Vec<_> =
        state.held_addresses(pod).chain(endpoint.addresses.iter().copied()).collect();
    held.into_iter().map(move |address| AddressKey { ifindex, addr: Addr::from(address) })
}

/// Where egress is judged later: Service addresses and the node's own.
fn deferred(state: &ClusterState) -> BTreeSet<Addr> {
    let services = state.services().flat_map(|service| &service.addresses);
    services.chain(state.own_addresses()).map(|address| Addr::from(*address)).collect()
}
