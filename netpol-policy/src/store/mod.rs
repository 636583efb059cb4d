//! The known cluster: a plain struct with `apply`.
//!
//! In: [`Delta`]s from any source, in any order, repeated or squashed. Out: the current objects, indexed, and
//! [`Changes`]: the parts that can differ from before. The content depends on the current objects only, never on the order of
//! their events. Values that many objects of a kind share are stored once. Must not: decide anything about policy.

mod address_owners;
mod changes;
mod delta;
mod label_classes;
mod label_index;
mod pods;
mod published;
mod queries;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::IfIndex;

pub use changes::Changes;
pub use delta::{
    Delta, Endpoint, List, OwnAddresses, OwnNodeEgress, PodEnd, PublishedPod, UnknownOwnNodeEgress,
};
pub use label_classes::{LabelClass, LabelClassId};
pub use label_index::Candidates;
use label_index::LabelIndex;
use pods::{PodId, Pods};
use published::Published;
use smallvec::SmallVec;

use crate::model::{
    ClusterPolicy, Interner, Kind, Namespace, Node, Object, ObjectName, ObjectRef, Pod, PodPhase,
    Policy, Service, ServiceBackend,
};

/// Every object that the policy of this node depends on.
#[derive(Clone, Default)]
pub struct ClusterState {
    pods: Pods,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    namespaces_by_label: LabelIndex<Arc<str>>,
    policies: BTreeMap<ObjectName, Policy>,
    cluster_policies: BTreeMap<Arc<str>, ClusterPolicy>,
    services: BTreeMap<ObjectName, Service>,
    /// Number of Services that have an address.
    service_addresses: BTreeMap<Addr, usize>,
    nodes: BTreeMap<Arc<str>, Node>,
    endpoints: BTreeMap<IfIndex, Endpoint>,
    endpoints_of_pod: BTreeMap<ObjectName, BTreeSet<IfIndex>>,
    own_addresses: OwnAddresses,
    own_node_egress: OwnNodeEgress,
    /// `None` until the source has told them.
    listed_backends: Option<BTreeMap<ObjectName, BTreeSet<ServiceBackend>>>,
    short_cuts: BTreeSet<IfIndex>,
    published: Published,
    interners: BTreeMap<Kind, Interner>,
}

/// The objects, without what is derived from them.
impl fmt::Debug for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterState")
            .field("pods", &self.pods.iter().collect::<Vec<_>>())
            .field("namespaces", &self.namespaces)
            .field("policies", &self.policies)
            .field("cluster_policies", &self.cluster_policies)
            .field("services", &self.services)
            .field("nodes", &self.nodes)
            .field("endpoints", &self.endpoints)
            .field("own_addresses", &self.own_addresses)
            .field("own_node_egress", &self.own_node_egress)
            .field("listed_backends", &self.listed_backends)
            .field("short_cuts", &self.short_cuts)
            .field("published", self.published.by_node())
            .finish_non_exhaustive()
    }
}

impl ClusterState {
    /// Applies one change.
    pub fn apply(&mut self, delta: Delta) -> Changes {
        let mut changes = Changes::default();
        let mut concerned = self.concerned(&delta);
        match delta {
            Delta::Upsert(object) => self.upsert(object, &mut changes),
            Delta::Remove { object, uid } => self.remove(&object, uid.as_deref(), &mut changes),
            Delta::Replace(list) => self.replace(list, &mut changes),
            Delta::UpsertEndpoint(endpoint) => {
                let ifindex = endpoint.ifindex;
                if self.endpoints.get(&ifindex) != Some(&endpoint) {
                    self.remove_endpoint(ifindex, &mut changes);
                    self.insert_endpoint(endpoint, &mut changes);
                }
            }
            Delta::RemoveEndpoint(ifindex) => {
                self.remove_endpoint(ifindex, &mut changes);
                self.short_cuts.remove(&ifindex);
            }
            Delta::ShortCuts(interfaces) => {
                let differing = self.short_cuts.symmetric_difference(&interfaces).copied();
                let endpoints = &self.endpoints;
                changes
                    .endpoints
                    .extend(differing.filter(|ifindex| endpoints.contains_key(ifindex)));
                self.short_cuts = interfaces;
            }
            Delta::OwnAddresses(addresses) => {
                let differing = self.own_addresses.all.symmetric_difference(&addresses.all);
                changes.deferred.extend(differing.map(|address| Addr::from(*address)));
                changes.translated |= self.own_addresses != addresses;
                self.own_addresses = addresses;
            }
            Delta::ListedBackends(listed) => {
                changes.translated |= self.listed_backends.as_ref() != Some(&listed);
                self.listed_backends = Some(listed);
            }
            Delta::PublishedAddresses { node, pods } => concerned = self.publish(&node, pods),
        }
        self.believe(concerned, &mut changes);
        changes
    }

    fn upsert(&mut self, object: Object, changes: &mut Changes) {
        let is_new = match object {
            Object::Pod(pod) => self.upsert_pod(pod, changes),
            Object::Policy(policy) => self.upsert_policy(policy, changes),
            Object::ClusterPolicy(policy) => self.upsert_cluster_policy(policy, changes),
            Object::Namespace(namespace) => self.upsert_namespace(namespace, changes),
            Object::Service(service) => self.upsert_service(service, changes),
            Object::Node(node) => self.upsert_node(node, changes),
        };
        changes.n_objects += usize::from(is_new);
    }

    fn upsert_pod(&mut self, mut pod: Pod, changes: &mut Changes) -> bool {
        let old = self.pods.id(&pod.name);
        if old.and_then(|id| self.pods.at(id)) == Some(&pod) {
            return false;
        }
        self.interner(Kind::Pod).share_pod(&mut pod);
        // It tells whose an address is, and may be a backend of a Service on the own node's network.
        let is_on_host = |pod: &Pod| pod.host_network;
        changes.translated |=
            is_on_host(&pod) || old.and_then(|id| self.pods.at(id)).is_some_and(is_on_host);
        if let Some(id) = old {
            self.let_go(id, changes);
        }
        let id = self.pods.put(old, pod, changes);
        self.hold(id, changes);
        true
    }

    fn upsert_policy(&mut self, mut policy: Policy, changes: &mut Changes) -> bool {
        if self.policies.get(&policy.name) == Some(&policy) {
            return false;
        }
        self.interner(Kind::NetworkPolicy).share_policy(&mut policy);
        changes.policies.insert(policy.name.clone());
        self.policies.insert(policy.name.clone(), policy);
        true
    }

    fn upsert_cluster_policy(&mut self, mut policy: ClusterPolicy, changes: &mut Changes) -> bool {
        if self.cluster_policies.get(&policy.name) == Some(&policy) {
            return false;
        }
        self.interner(Kind::ClusterNetworkPolicy).share_cluster_policy(&mut policy);
        changes.cluster_policies.insert(Arc::clone(&policy.name));
        self.cluster_policies.insert(Arc::clone(&policy.name), policy);
        true
    }

    fn upsert_node(&mut self, node: Node, changes: &mut Changes) -> bool {
        let old = self.nodes.get(&node.name);
        if old == Some(&node) {
            return false;
        }
        changes.nodes = true;
        self.nodes.insert(Arc::clone(&node.name), node);
        true
    }

    fn upsert_namespace(&mut self, mut namespace: Namespace, changes: &mut Changes) -> bool {
        let old = self.namespaces.get(&namespace.name);
        if old == Some(&namespace) {
            return false;
        }
        if let Some(old) = old {
            self.namespaces_by_label.remove(&old.labels, &old.name);
        }
        self.interner(Kind::Namespace).share_namespace(&mut namespace);
        let name = Arc::clone(&namespace.name);
        self.namespaces_by_label.insert(&namespace.labels, &name);
        self.namespaces.insert(Arc::clone(&name), namespace);
        changes.namespaces.insert(name);
        true
    }

    fn upsert_service(&mut self, service: Service, changes: &mut Changes) -> bool {
        if self.services.get(&service.name) == Some(&service) {
            return false;
        }
        self.remove_service(&service.name, changes);
        changes.translated |= translates(&service);
        for address in &service.addresses {
            let addr = Addr::from(*address);
            *self.service_addresses.entry(addr).or_default() += 1;
            changes.deferred.insert(addr);
        }
        self.services.insert(service.name.clone(), service);
        true
    }

    fn remove_service(&mut self, name: &ObjectName, changes: &mut Changes) -> bool {
        let Some(service) = self.services.remove(name) else { return false };
        changes.translated |= translates(&service);
        for address in &service.addresses {
            let addr = Addr::from(*address);
            changes.deferred.insert(addr);
            if let Some(n_services) = self.service_addresses.get_mut(&addr) {
                *n_services -= 1;
                if *n_services == 0 {
                    self.service_addresses.remove(&addr);
                }
            }
        }
        true
    }

    fn remove(&mut self, object: &ObjectRef, uid: Option<&str>, changes: &mut Changes) {
        let name = &object.name;
        let is_other = |known: &str| uid.is_some_and(|uid| !known.is_empty() && known != uid);
        let removed = match object.kind {
            Kind::Pod => match self.pods.id(name) {
                Some(id) if !self.pods.at(id).is_some_and(|pod| is_other(&pod.uid)) => {
                    let is_on_host = self.pods.at(id).is_some_and(|pod| pod.host_network);
                    changes.translated |= is_on_host;
                    self.let_go(id, changes);
                    self.pods.remove(id, changes);
                    true
                }
                _ => false,
            },
            Kind::NetworkPolicy => {
                let stays = self.policies.get(name).is_none_or(|policy| is_other(&policy.uid));
                if !stays {
                    self.policies.remove(name);
                    changes.policies.insert(name.clone());
                }
                !stays
            }
            Kind::Namespace => match self.namespaces.remove(&name.name) {
                Some(namespace) => {
                    self.namespaces_by_label.remove(&namespace.labels, &namespace.name);
                    changes.namespaces.insert(namespace.name);
                    true
                }
                None => false,
            },
            Kind::Service => self.remove_service(name, changes),
            Kind::ClusterNetworkPolicy => {
                let known = self.cluster_policies.get(&name.name);
                let stays = known.is_none_or(|policy| is_other(&policy.uid));
                if !stays {
                    self.cluster_policies.remove(&name.name);
                    changes.cluster_policies.insert(Arc::clone(&name.name));
                }
                !stays
            }
            Kind::Node => {
                let is_known = self.nodes.remove(&name.name).is_some();
                changes.nodes |= is_known;
                is_known
            }
        };
        changes.n_objects += usize::from(removed);
    }

    /// The interner of a kind. Objects of different kinds have hardly any value in common.
    fn interner(&mut self, kind: Kind) -> &mut Interner {
        self.interners.entry(kind).or_default()
    }

    fn replace(&mut self, list: List, changes: &mut Changes) {
        let Some(list) = self.fill(list, changes) else { return };
        let List { kind, objects, unreadable, interner: _ } = list;
        let mut listed: BTreeSet<ObjectRef> = objects.iter().map(Object::object_ref).collect();
        listed.extend(unreadable.into_iter().map(|name| ObjectRef { kind, name }));
        for gone in self.references(kind).into_iter().filter(|object| !listed.contains(object)) {
            self.remove(&gone, None, changes);
        }
        for object in objects {
            self.upsert(object, changes);
        }
    }

    /// Stores the first list of pods, policies or namespaces in one step, which is much faster. Returns any other list.
    fn fill(&mut self, list: List, changes: &mut Changes) -> Option<List> {
        let fill = match list.kind {
            _ if list.objects.is_empty() => return Some(list),
            Kind::Pod if self.pods.is_empty() => Self::fill_pods,
            Kind::NetworkPolicy if self.policies.is_empty() => Self::fill_policies,
            Kind::Namespace if self.namespaces.is_empty() => Self::fill_namespaces,
            Kind::Pod
            | Kind::NetworkPolicy
            | Kind::ClusterNetworkPolicy
            | Kind::Namespace
            | Kind::Service
            | Kind::Node => return Some(list),
        };
        self.interners.insert(list.kind, list.interner);
        changes.n_objects += fill(self, list.objects);
        changes.everything = true;
        None
    }

    /// Returns the number of pods.
    fn fill_pods(&mut self, objects: Vec<Object>) -> usize {
        self.pods.fill(objects);
        // Pods without reported addresses own those that the runtime gave their interfaces.
        let attached = self.endpoints_of_pod.keys().filter_map(|name| self.pods.id(name));
        for id in attached.collect::<Vec<_>>() {
            let addresses = self.addresses_at(id);
            self.pods.owners.hold(id, &addresses);
        }
        self.pods.len()
    }

    /// As [`Self::fill_pods`].
    fn fill_policies(&mut self, objects: Vec<Object>) -> usize {
        let named = objects.into_iter().filter_map(|object| {
            let Object::Policy(policy) = object else { return None };
            Some((policy.name.clone(), policy))
        });
        self.policies = named.collect();
        self.policies.len()
    }

    /// As [`Self::fill_pods`].
    fn fill_namespaces(&mut self, objects: Vec<Object>) -> usize {
        let named = objects.into_iter().filter_map(|object| {
            let Object::Namespace(namespace) = object else { return None };
            Some((Arc::clone(&namespace.name), namespace))
        });
        self.namespaces = named.collect();
        for Namespace { name, labels, terminating: _, allows_forwarding: _ } in
            self.namespaces.values()
        {
            self.namespaces_by_label.insert(labels, name);
        }
        self.namespaces.len()
    }

    fn insert_endpoint(&mut self, endpoint: Endpoint, changes: &mut Changes) {
        let pod = self.pods.id(&endpoint.pod);
        if let Some(id) = pod {
            self.let_go(id, changes);
        }
        changes.endpoints.insert(endpoint.ifindex);
        let of_pod = self.endpoints_of_pod.entry(endpoint.pod.clone()).or_default();
        of_pod.insert(endpoint.ifindex);
        self.endpoints.insert(endpoint.ifindex, endpoint);
        if let Some(id) = pod {
            self.hold(id, changes);
        }
    }

    fn remove_endpoint(&mut self, ifindex: IfIndex, changes: &mut Changes) {
        let Some(endpoint) = self.endpoints.get(&ifindex) else { return };
        let name = endpoint.pod.clone();
        let pod = self.pods.id(&name);
        if let Some(id) = pod {
            self.let_go(id, changes);
        }
        changes.endpoints.insert(ifindex);
        self.endpoints.remove(&ifindex);
        if let Some(of_pod) = self.endpoints_of_pod.get_mut(&name) {
            of_pod.remove(&ifindex);
            if of_pod.is_empty() {
                self.endpoints_of_pod.remove(&name);
            }
        }
        if let Some(id) = pod {
            self.hold(id, changes);
        }
    }

    /// Adds the pod as an owner of its addresses. [`Self::let_go`] undoes it before the pod or its endpoint changes.
    fn hold(&mut self, id: PodId, changes: &mut Changes) {
        let addresses = self.addresses_at(id);
        self.pods.owners.hold(id, &addresses);
        self.record_changed(id, &addresses, changes);
    }

    fn let_go(&mut self, id: PodId, changes: &mut Changes) {
        let addresses = self.addresses_at(id);
        self.record_changed(id, &addresses, changes);
        self.pods.owners.let_go(id, &addresses);
    }

    /// Records the addresses, and the endpoints of all their owners, as changed.
    fn record_changed(&self, id: PodId, addresses: &[IpAddr], changes: &mut Changes) {
        let mut concerned = vec![id];
        for address in addresses {
            let addr = Addr::from(*address);
            changes.addresses.insert(addr);
            concerned.extend(self.pods.owners.of(addr).filter(|owner| *owner != id));
        }
        for pod in concerned.into_iter().filter_map(|id| self.pods.at(id)) {
            changes.endpoints.extend(self.endpoints_of_pod.get(&pod.name).into_iter().flatten());
        }
    }

    fn addresses_at(&self, id: PodId) -> SmallVec<[IpAddr; 4]> {
        self.pods.at(id).into_iter().flat_map(|pod| self.known_addresses_of(pod)).collect()
    }

    /// The addresses that the API reports or, until it reports any, those that the runtime gave the pod's interface, or that the
    /// pod's node publishes.
    fn addresses_of<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = IpAddr> + 'a {
        self.known_addresses_of(pod).chain(self.published.of(&pod.name))
    }

    /// The same without those that another node publishes.
    fn known_addresses_of<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = IpAddr> + 'a {
        let endpoints = if is_silent(pod) { self.endpoints_of_pod.get(&pod.name) } else { None };
        let given = endpoints
            .into_iter()
            .flatten()
            .filter_map(|ifindex| self.endpoints.get(ifindex))
            .filter(|endpoint| is_pod_of(endpoint, pod))
            .flat_map(|endpoint| &endpoint.addresses);
        pod.addresses().iter().chain(given).copied()
    }
}

/// Whether a pod can have addresses of its own that the API does not report yet.
fn is_silent(pod: &Pod) -> bool {
    pod.reported_addresses.is_empty()
        && !pod.host_network
        && !matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed)
}

/// Whether ports of a node can be translated for a Service.
fn translates(service: &Service) -> bool {
    !service.addresses.is_empty() || service.ports.iter().any(|port| port.node_port.is_some())
}

/// Whether a pod of the endpoint's name is the endpoint's pod.
fn is_pod_of(endpoint: &Endpoint, pod: &Pod) -> bool {
    let uid = &endpoint.pod_uid;
    pod.uid.is_empty() || uid.is_empty() || pod.uid == *uid || pod.static_uid == *uid
}

#[cfg(test)]
mod tests;
