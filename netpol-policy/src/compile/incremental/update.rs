//! The part of the map state that changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::{Identity, IfIndex};
use netpol_common::keys::{BackendValue, NodeKey, PrefixKey};

use crate::compile::map_state::{AllowMap, AllowMapKey, EndpointMapState, MapState};

/// The old and the new values of the keys that can change.
///
/// The endpoint of an allow map that changes is in both, whether or not the endpoint changes.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapStateUpdate {
    /// The current content of the maps.
    pub before: MapState,
    /// The desired content of the maps.
    pub after: MapState,
}

impl MapStateUpdate {
    /// Applies the update to the full map state from before it.
    pub fn complete(self, map_state: &mut MapState) {
        let Self { before, after } = self;
        let MapState {
            endpoints,
            addresses,
            identities,
            prefixes,
            allow,
            defer,
            own_node,
            node_backends,
            egress_marks,
        } = map_state;
        replace(endpoints, &before.endpoints, after.endpoints);
        replace_set(addresses, &before.addresses, after.addresses);
        replace(identities, &before.identities, after.identities);
        replace(prefixes, &before.prefixes, after.prefixes);
        replace(allow, &before.allow, after.allow);
        replace_set(defer, &before.defer, after.defer);
        replace_set(own_node, &before.own_node, after.own_node);
        replace(node_backends, &before.node_backends, after.node_backends);
        replace(egress_marks, &before.egress_marks, after.egress_marks);
    }

    /// The full map state from before the update, given the current one, which can be anywhere between the two.
    pub fn undone(&self, now: &MapState) -> MapState {
        let mut then = now.clone();
        let Self { before, after } = self.clone();
        Self { before: after, after: before }.complete(&mut then);
        then
    }

    /// Whether an address or a prefix changes its identity.
    pub(super) fn moves_addresses(&self) -> bool {
        self.before.identities != self.after.identities
            || self.before.prefixes != self.after.prefixes
    }

    pub(super) fn set_identity(&mut self, known: &MapState, addr: Addr, wanted: Option<Identity>) {
        if let Some(identity) = known.identities.get(&addr) {
            self.before.identities.insert(addr, *identity);
        }
        if let Some(identity) = wanted {
            self.after.identities.insert(addr, identity);
        }
    }

    pub(super) fn set_prefix(
        &mut self,
        known: &MapState,
        key: PrefixKey,
        wanted: Option<Identity>,
    ) {
        if let Some(identity) = known.prefixes.get(&key) {
            self.before.prefixes.insert(key, *identity);
        }
        if let Some(identity) = wanted {
            self.after.prefixes.insert(key, identity);
        }
    }

    pub(super) fn set_endpoint(
        &mut self,
        known: &MapState,
        ifindex: IfIndex,
        wanted: Option<EndpointMapState>,
    ) {
        if let Some(endpoint) = known.endpoints.get(&ifindex) {
            self.before.endpoints.insert(ifindex, endpoint.clone());
        }
        self.after.endpoints.remove(&ifindex);
        if let Some(endpoint) = wanted {
            self.after.endpoints.insert(ifindex, endpoint);
        }
    }

    /// Adds the current entry of an endpoint to both sides.
    pub(super) fn keep_endpoint(&mut self, known: &MapState, ifindex: IfIndex) {
        let is_new = !self.before.endpoints.contains_key(&ifindex)
            && !self.after.endpoints.contains_key(&ifindex);
        if let Some(endpoint) = known.endpoints.get(&ifindex).filter(|_| is_new) {
            self.before.endpoints.insert(ifindex, endpoint.clone());
            self.after.endpoints.insert(ifindex, endpoint.clone());
        }
    }

    pub(super) fn set_allow(
        &mut self,
        known: &MapState,
        key: AllowMapKey,
        wanted: Option<&Arc<AllowMap>>,
    ) {
        if let Some(map) = known.allow.get(&key) {
            self.before.allow.insert(key, Arc::clone(map));
        }
        self.after.allow.remove(&key);
        if let Some(map) = wanted {
            self.after.allow.insert(key, Arc::clone(map));
        }
    }

    pub(super) fn set_egress_mark(
        &mut self,
        known: &MapState,
        egress_mark: u16,
        wanted: Option<IfIndex>,
    ) {
        if let Some(owner) = known.egress_marks.get(&egress_mark) {
            self.before.egress_marks.insert(egress_mark, *owner);
        }
        self.after.egress_marks.remove(&egress_mark);
        if let Some(owner) = wanted {
            self.after.egress_marks.insert(egress_mark, owner);
        }
    }

    pub(super) fn set_own_node(&mut self, known: &MapState, wanted: BTreeSet<NodeKey>) {
        if known.own_node != wanted {
            self.before.own_node.clone_from(&known.own_node);
            self.after.own_node = wanted;
        }
    }

    pub(super) fn set_node_backends(
        &mut self,
        known: &MapState,
        wanted: BTreeMap<NodeKey, BackendValue>,
    ) {
        if known.node_backends != wanted {
            self.before.node_backends.clone_from(&known.node_backends);
            self.after.node_backends = wanted;
        }
    }

    pub(super) fn set_deferred(
        &mut self,
        known: &MapState,
        addrs: &BTreeSet<Addr>,
        is_deferred: impl Fn(Addr) -> bool,
    ) {
        self.before.defer.extend(addrs.iter().filter(|addr| known.defer.contains(addr)));
        self.after.defer.extend(addrs.iter().filter(|addr| is_deferred(**addr)));
    }
}

fn replace<K: Ord, V>(
    map: &mut BTreeMap<K, V>,
    before: &BTreeMap<K, V>,
    mut after: BTreeMap<K, V>,
) {
    for gone in before.keys().filter(|key| !after.contains_key(key)) {
        map.remove(gone);
    }
    // A merge of both maps costs a fraction of a search for each entry, and nothing if the map is empty.
    if after.len() > map.len() / 8 {
        map.append(&mut after);
    } else {
        map.extend(after);
    }
}

fn replace_set<K: Ord>(set: &mut BTreeSet<K>, before: &BTreeSet<K>, after: BTreeSet<K>) {
    for gone in before.difference(&after) {
        set.remove(gone);
    }
    set.extend(after);
}
