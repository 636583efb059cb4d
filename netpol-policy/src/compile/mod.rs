//! From policies to the content of the maps.
//!
//! In: the cluster's state and the numbers given so far. Out: an [`Image`], the full desired content of all maps.
//! Must not: know what the maps hold now (that is `dataplane`'s), or do IO.

mod allow_map;
mod identity;
mod image;
mod incremental;
mod numbering;
mod port_ranges;
mod prefixes;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, IfIndex};
use netpol_common::keys::{AddressKey, EndpointValue};

pub use image::{AllowMap, AllowMapKey, EndpointImage, Image};
pub use incremental::{Compiled, Turn};
pub use numbering::Numbering;
pub use port_ranges::port_prefixes;
pub use room::{Capacities, Lack, LeftOut, describe, diagnostics, left_out_of_all};

use crate::model::Pod;
use crate::resolve::{EndpointPolicy, Grant, Isolation, PeerSet, Resolver};
use crate::store::{ClusterState, Endpoint};

/// Compiles the state into an image that can follow `previous` without a moment in which neither holds.
///
/// The content is a function of `state` alone, the numbers of identities and rules also of `numbering`. An identity
/// that `previous` knows keeps its number, unless addresses change hands while its meaning changes: then the same
/// number would mean two things on the way, so it gets a fresh one.
pub fn compile(state: &ClusterState, numbering: &mut Numbering, previous: &Image) -> Image {
    compile_within(state, numbering, previous, &Capacities::default()).image
}

/// What [`compile_within`] makes of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compilation {
    /// What the maps should hold.
    pub image: Image,
    /// The rules for which they have no room.
    pub left_out: LeftOut,
}

/// [`compile`] for maps of any size.
pub fn compile_within(
    state: &ClusterState,
    numbering: &mut Numbering,
    previous: &Image,
    capacities: &Capacities,
) -> Compilation {
    let resolved = resolve(state);
    let mut compilation = build(state, &resolved, numbering, capacities);
    let ambiguous = identity::ambiguous(previous, &compilation.image);
    if !ambiguous.is_empty() {
        numbering.retire(&ambiguous);
        compilation = build(state, &resolved, numbering, capacities);
    }
    numbering.retain(&compilation.image);
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
    let grants: BTreeSet<&Arc<Grant>> = resolved
        .iter()
        .filter_map(|resolved| resolved.pod.as_ref())
        .flat_map(|(_, policy)| policy.ingress.grants.iter().chain(&policy.egress.grants))
        .collect();
    let rules = grants.iter().filter_map(|grant| Some((&grant.rule, grant.peers.as_ref()?)));
    let mut left_out = room::left_out(state, rules, capacities);
    let in_force = grants.into_iter().filter(|grant| !left_out.contains_key(&grant.rule));
    let identities = identity::assign(state, in_force, numbering);
    let mut cut = BTreeSet::new();

    let mut image = Image {
        identities: identities.addresses,
        prefixes: identities.prefixes,
        defer: deferred(state),
        ..Image::default()
    };
    let mut shared: BTreeMap<Vec<&Arc<Grant>>, Arc<AllowMap>> = BTreeMap::new();
    for Resolved { endpoint, pod } in resolved {
        let ifindex = endpoint.ifindex;
        let Some((pod, policy)) = pod else {
            image.endpoints.insert(ifindex, EndpointImage::blocked(&endpoint.container_id));
            continue;
        };
        image.endpoints.insert(ifindex, endpoint_image(endpoint, pod, policy));
        if endpoint.ticket != 0 {
            image.tickets.insert(endpoint.ticket, ifindex);
        }
        image.addresses.extend(addresses(state, endpoint, pod, ifindex));
        for direction in Direction::ALL {
            let policy = policy.direction(direction);
            if policy.isolation == Isolation::None {
                continue;
            }
            let map = shared.entry(policy.grants.iter().collect()).or_insert_with(|| {
                let members = |peers: &Arc<PeerSet>| {
                    identities.members.get(peers).map_or([].as_slice(), Vec::as_slice).iter()
                };
                let in_force = policy.grants.iter();
                let in_force = in_force.filter(|grant| !left_out.contains_key(&grant.rule));
                let grants: Vec<_> =
                    in_force.map(|grant| (numbering.rule_id(&grant.rule), grant)).collect();
                let built =
                    allow_map::build(grants.into_iter(), members, capacities.n_allow_entries);
                cut.extend(built.left_out);
                Arc::new(built.map)
            });
            image.allow.insert(AllowMapKey::new(ifindex, direction), Arc::clone(map));
        }
    }
    left_out.extend(cut.into_iter().map(|rule| (rule, Lack::AllowEntries)));
    Compilation { image, left_out }
}

fn endpoint_image(endpoint: &Endpoint, pod: &Pod, policy: &EndpointPolicy) -> EndpointImage {
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
        ticket: endpoint.ticket,
    };
    EndpointImage { value, container_id: Arc::clone(&endpoint.container_id) }
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
