//! The known cluster: a plain struct with `apply`.
//!
//! In: [`Delta`]s from any source, in any order, repeated or squashed. Out: the current objects, indexed, and
//! [`Changes`]: what differs from before. The content depends on the current objects only, never on how they
//! came. Must not: decide anything about policy.

mod delta;
mod owners;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use netpol_common::ids::IfIndex;

pub use delta::{Delta, Endpoint};
use owners::AddressOwners;

use crate::model::{
    Kind, Labels, Namespace, Node, Object, ObjectName, ObjectRef, Pod, PodPhase, Policy, Service,
};

/// Every object that decides what this node enforces.
#[derive(Clone, Debug, Default)]
pub struct ClusterState {
    pods: BTreeMap<ObjectName, Pod>,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    policies: BTreeMap<ObjectName, Policy>,
    services: BTreeMap<ObjectName, Service>,
    nodes: BTreeMap<Arc<str>, Node>,
    endpoints: BTreeMap<IfIndex, Endpoint>,
    endpoint_of_pod: BTreeMap<ObjectName, IfIndex>,
    own_addresses: BTreeSet<IpAddr>,
    owners: AddressOwners,
}

/// What a delta changed; empty if it told nothing new.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Objects that appeared, disappeared or differ.
    pub objects: BTreeSet<ObjectRef>,
    /// Endpoints that appeared, disappeared or differ.
    pub endpoints: BTreeSet<IfIndex>,
    /// Whether the node's own addresses differ.
    pub own_addresses: bool,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.endpoints.is_empty() && !self.own_addresses
    }

    /// Adds the changes of a later delta.
    pub fn extend(&mut self, later: Self) {
        let Self { objects, endpoints, own_addresses } = later;
        self.objects.extend(objects);
        self.endpoints.extend(endpoints);
        self.own_addresses |= own_addresses;
    }
}

impl ClusterState {
    /// Takes in one change.
    pub fn apply(&mut self, delta: Delta) -> Changes {
        let mut changes = Changes::default();
        match delta {
            Delta::Upsert(object) => self.upsert(object, &mut changes),
            Delta::Remove { object, uid } => self.remove(&object, uid.as_deref(), &mut changes),
            Delta::Replace { kind, objects, unreadable } => {
                self.replace(kind, objects, unreadable, &mut changes);
            }
            Delta::UpsertEndpoint(endpoint) => {
                let ifindex = endpoint.ifindex;
                if self.endpoints.get(&ifindex) != Some(&endpoint) {
                    self.remove_endpoint(ifindex);
                    self.insert_endpoint(endpoint);
                    changes.endpoints.insert(ifindex);
                }
            }
            Delta::RemoveEndpoint(ifindex) => {
                if self.remove_endpoint(ifindex) {
                    changes.endpoints.insert(ifindex);
                }
            }
            Delta::OwnAddresses(addresses) => {
                if self.own_addresses != addresses {
                    self.own_addresses = addresses;
                    changes.own_addresses = true;
                }
            }
        }
        changes
    }

    fn upsert(&mut self, object: Object, changes: &mut Changes) {
        let reference = object.object_ref();
        let is_new = match object {
            Object::Pod(pod) => {
                if self.pods.get(&pod.name) == Some(&pod) {
                    false
                } else {
                    self.disown(&pod.name);
                    let name = pod.name.clone();
                    self.pods.insert(name.clone(), pod);
                    self.own(&name);
                    true
                }
            }
            Object::Policy(policy) => {
                insert_if_new(&mut self.policies, policy.name.clone(), policy)
            }
            Object::Namespace(namespace) => {
                insert_if_new(&mut self.namespaces, Arc::clone(&namespace.name), namespace)
            }
            Object::Service(service) => {
                insert_if_new(&mut self.services, service.name.clone(), service)
            }
            Object::Node(node) => insert_if_new(&mut self.nodes, Arc::clone(&node.name), node),
        };
        if is_new {
            changes.objects.insert(reference);
        }
    }

    fn remove(&mut self, object: &ObjectRef, uid: Option<&str>, changes: &mut Changes) {
        let name = &object.name;
        let removed = match object.kind {
            Kind::Pod => {
                let is_other =
                    |pod: &Pod| uid.is_some_and(|uid| !pod.uid.is_empty() && *pod.uid != *uid);
                if self.pods.get(name).is_some_and(is_other) {
                    return;
                }
                self.disown(name);
                self.pods.remove(name).is_some()
            }
            Kind::NetworkPolicy => {
                let is_other = |policy: &Policy| {
                    uid.is_some_and(|uid| !policy.uid.is_empty() && *policy.uid != *uid)
                };
                if self.policies.get(name).is_some_and(is_other) {
                    return;
                }
                self.policies.remove(name).is_some()
            }
            Kind::Namespace => self.namespaces.remove(&name.name).is_some(),
            Kind::Service => self.services.remove(name).is_some(),
            Kind::Node => self.nodes.remove(&name.name).is_some(),
        };
        if removed {
            changes.objects.insert(object.clone());
        }
    }

    fn replace(
        &mut self,
        kind: Kind,
        objects: Vec<Object>,
        unreadable: Vec<ObjectName>,
        changes: &mut Changes,
    ) {
        let mut listed: BTreeSet<ObjectRef> = objects.iter().map(Object::object_ref).collect();
        listed.extend(unreadable.into_iter().map(|name| ObjectRef { kind, name }));
        for gone in self.references(kind).into_iter().filter(|object| !listed.contains(object)) {
            self.remove(&gone, None, changes);
        }
        for object in objects {
            if object.object_ref().kind == kind {
                self.upsert(object, changes);
            }
        }
    }

    fn insert_endpoint(&mut self, endpoint: Endpoint) {
        let pod = endpoint.pod.clone();
        self.disown(&pod);
        self.endpoint_of_pod.insert(pod.clone(), endpoint.ifindex);
        self.endpoints.insert(endpoint.ifindex, endpoint);
        self.own(&pod);
    }

    fn remove_endpoint(&mut self, ifindex: IfIndex) -> bool {
        let Some(pod) = self.endpoints.get(&ifindex).map(|endpoint| endpoint.pod.clone()) else {
            return false;
        };
        self.disown(&pod);
        self.endpoints.remove(&ifindex);
        if self.endpoint_of_pod.get(&pod) == Some(&ifindex) {
            self.endpoint_of_pod.remove(&pod);
        }
        self.own(&pod);
        true
    }

    /// Notes the addresses of a pod. Undone by [`Self::disown`] before the pod or its endpoint changes.
    fn own(&mut self, name: &ObjectName) {
        if let Some(pod) = self.pods.get(name) {
            self.owners.insert(pod, &self.addresses_of(pod));
        }
    }

    fn disown(&mut self, name: &ObjectName) {
        if let Some(pod) = self.pods.get(name) {
            let addresses = self.addresses_of(pod);
            self.owners.remove(pod, &addresses);
        }
    }

    /// The addresses that the API reports, and until it does those that the runtime gave to the pod's interface.
    fn addresses_of(&self, pod: &Pod) -> Vec<IpAddr> {
        let mut addresses = pod.addresses().to_vec();
        if pod.reported_addresses.is_empty()
            && !pod.host_network
            && !matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed)
            && let Some(endpoint) =
                self.endpoint_of_pod.get(&pod.name).and_then(|ifindex| self.endpoints.get(ifindex))
            && self.pod_of(endpoint).is_some()
        {
            addresses.extend(&endpoint.addresses);
        }
        addresses
    }

    /// The stored objects of a kind.
    pub fn references(&self, kind: Kind) -> Vec<ObjectRef> {
        let name = |name: &ObjectName| ObjectRef { kind, name: name.clone() };
        let cluster_scoped =
            |name: &Arc<str>| ObjectRef { kind, name: ObjectName::cluster_scoped(name) };
        match kind {
            Kind::Pod => self.pods.keys().map(name).collect(),
            Kind::NetworkPolicy => self.policies.keys().map(name).collect(),
            Kind::Service => self.services.keys().map(name).collect(),
            Kind::Namespace => self.namespaces.keys().map(cluster_scoped).collect(),
            Kind::Node => self.nodes.keys().map(cluster_scoped).collect(),
        }
    }

    /// A pod by name.
    pub fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.pods.get(name)
    }

    /// All pods, by name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// The pods of one namespace, by name.
    pub fn pods_in(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        let start = ObjectName::new(namespace, "");
        let namespace: Arc<str> = Arc::from(namespace);
        self.pods
            .range(start..)
            .take_while(move |(name, _)| name.namespace == namespace)
            .map(|(_, pod)| pod)
    }

    /// The pod that holds an address: of several, the newest.
    pub fn owner(&self, address: IpAddr) -> Option<&Pod> {
        self.owners.owner(address).and_then(|name| self.pods.get(name))
    }

    /// Every address that a pod holds, with its owner.
    pub fn owned_addresses(&self) -> impl Iterator<Item = (IpAddr, &Pod)> {
        self.owners.iter().filter_map(|(address, name)| Some((address, self.pods.get(name)?)))
    }

    /// The addresses that a pod really holds: those that no newer pod holds.
    pub fn held_addresses<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = IpAddr> + 'a {
        let addresses = self.addresses_of(pod).into_iter();
        addresses.filter(|address| self.owners.owner(*address) == Some(&pod.name))
    }

    /// The labels of a namespace; `None` while it has not been seen, which no selector but the empty one
    /// matches.
    pub fn namespace_labels(&self, namespace: &str) -> Option<&Labels> {
        self.namespaces.get(namespace).map(|namespace| &namespace.labels)
    }

    /// All namespaces, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// A policy by name.
    pub fn policy(&self, name: &ObjectName) -> Option<&Policy> {
        self.policies.get(name)
    }

    /// All policies, by name.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values()
    }

    /// The policies of one namespace, by name.
    pub fn policies_in(&self, namespace: &str) -> impl Iterator<Item = &Policy> {
        let start = ObjectName::new(namespace, "");
        let namespace: Arc<str> = Arc::from(namespace);
        self.policies
            .range(start..)
            .take_while(move |(name, _)| name.namespace == namespace)
            .map(|(_, policy)| policy)
    }

    /// All Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// The attached pod interfaces of this node.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values()
    }

    /// An endpoint by its interface.
    pub fn endpoint(&self, ifindex: IfIndex) -> Option<&Endpoint> {
        self.endpoints.get(&ifindex)
    }

    /// The pod of an endpoint, if it is known and is the same pod, not a successor of its name.
    pub fn pod_of(&self, endpoint: &Endpoint) -> Option<&Pod> {
        let uid = &endpoint.pod_uid;
        self.pods.get(&endpoint.pod).filter(|pod| {
            pod.uid.is_empty() || uid.is_empty() || pod.uid == *uid || pod.static_uid == *uid
        })
    }

    /// The addresses of this node's own devices.
    pub fn own_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.own_addresses
    }
}

/// Stores the value and tells whether it differs from what was there.
fn insert_if_new<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    if map.get(&key) == Some(&value) {
        return false;
    }
    map.insert(key, value);
    true
}

#[cfg(test)]
mod tests;
