//! What can be asked of the known cluster.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::IfIndex;

use super::label_classes::{LabelClass, LabelClassId};
use super::label_index::Candidates;
use super::{ClusterState, Endpoint, is_pod_of};
use crate::model::{
    Kind, Labels, Namespace, Node, ObjectName, ObjectRef, Pod, Policy, PortName, Selector, Service,
    Transport,
};

impl ClusterState {
    /// The stored objects of a kind.
    pub fn references(&self, kind: Kind) -> Vec<ObjectRef> {
        let name = |name: &ObjectName| ObjectRef { kind, name: name.clone() };
        let cluster_scoped =
            |name: &Arc<str>| ObjectRef { kind, name: ObjectName::cluster_scoped(name) };
        match kind {
            Kind::Pod => self.pods.iter().map(|pod| name(&pod.name)).collect(),
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
        self.pods.iter()
    }

    /// The pods of one namespace, by name.
    pub fn pods_in(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        self.pods.of_namespace(namespace)
    }

    /// The pod that holds an address: of several, the newest.
    pub fn owner(&self, address: IpAddr) -> Option<&Pod> {
        self.pods.at(self.pods.owner(Addr::from(address))?)
    }

    /// At most so many addresses are held by pods.
    pub fn n_addresses(&self) -> usize {
        self.pods.owners.len()
    }

    /// Every address that a pod holds, with its owner; by address.
    pub fn owned_addresses(&self) -> impl Iterator<Item = (IpAddr, &Pod)> {
        let mut owned: Vec<_> = self.pods.owned().collect();
        owned.sort_unstable_by_key(|(addr, _)| *addr);
        owned.into_iter().filter_map(|(addr, id)| Some((addr.to_ip(), self.pods.at(id)?)))
    }

    /// The addresses that a pod really holds: those that no newer pod holds.
    pub fn held_addresses<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = IpAddr> + 'a {
        let is_its =
            |address: &IpAddr| self.owner(*address).is_some_and(|owner| owner.name == pod.name);
        self.addresses_of(pod).filter(is_its)
    }

    /// The label class of the pod that holds an address.
    pub fn label_class_at(&self, addr: Addr) -> Option<LabelClassId> {
        self.pods.label_class(self.pods.owner(addr)?)
    }

    /// The label class of a known pod.
    pub fn label_class_of(&self, pod: &Pod) -> Option<LabelClassId> {
        self.pods.label_class(self.pods.id(&pod.name)?)
    }

    /// Every address in these ranges that a pod holds, with the pod's label class; in no order. The ranges are sorted and do
    /// not touch.
    pub fn label_classes_within(
        &self,
        ranges: &[RangeInclusive<Addr>],
    ) -> impl Iterator<Item = (Addr, LabelClassId)> {
        let held = self.pods.owned_within(ranges);
        held.filter_map(|(addr, id)| Some((addr, self.pods.label_class(id)?)))
    }

    /// The addresses that the pods of a label class hold.
    pub fn addresses_of_label_class(
        &self,
        label_class: LabelClassId,
    ) -> impl Iterator<Item = Addr> {
        let pods = self.pods.label_classes.pods(label_class);
        let pods = pods.filter_map(|id| Some((id, self.pods.at(id)?)));
        let held = pods.flat_map(|(id, pod)| self.addresses_of(pod).map(move |held| (id, held)));
        let held = held.map(|(id, address)| (id, Addr::from(address)));
        held.filter(|(id, addr)| self.pods.owns(*id, *addr)).map(|(_, addr)| addr)
    }

    /// A label class by its number.
    pub fn label_class(&self, id: LabelClassId) -> Option<&LabelClass> {
        self.pods.label_classes.get(id)
    }

    /// All label classes, in no order that means anything.
    pub fn label_classes(&self) -> impl Iterator<Item = (LabelClassId, &LabelClass)> {
        self.pods.label_classes.iter()
    }

    /// The label classes of a namespace.
    pub fn label_classes_in(&self, namespace: &str) -> &[LabelClassId] {
        self.pods.label_classes.of_namespace(namespace)
    }

    /// The label classes whose pods have a port of this name, by the numbers that they give it.
    pub fn label_classes_with_port(
        &self,
        transport: Transport,
        name: &PortName,
    ) -> impl Iterator<Item = (&[u16], &[LabelClassId])> {
        self.pods.label_classes.with_port_name(transport, name)
    }

    /// All label classes that a selector selects, and others; `None` if that can be any.
    pub fn label_class_candidates<'a>(
        &'a self,
        selector: &'a Selector,
    ) -> Option<Candidates<'a, LabelClassId>> {
        self.pods.label_classes.candidates(selector)
    }

    /// All namespaces that a selector selects, and others; `None` if that can be any.
    pub fn namespace_candidates<'a>(
        &'a self,
        selector: &'a Selector,
    ) -> Option<Candidates<'a, Arc<str>>> {
        self.namespaces_by_label.candidates(selector)
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

    /// How many policies there are.
    pub fn n_policies(&self) -> usize {
        self.policies.len()
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

    /// The endpoints of a pod's name.
    pub fn endpoints_of(&self, pod: &ObjectName) -> impl Iterator<Item = IfIndex> {
        self.endpoints_of_pod.get(pod).into_iter().flatten().copied()
    }

    /// The endpoints of a namespace's pods.
    pub fn endpoints_in(&self, namespace: &str) -> impl Iterator<Item = IfIndex> {
        let start = ObjectName::new(namespace, "");
        let namespace = Arc::clone(&start.namespace);
        self.endpoints_of_pod
            .range(start..)
            .take_while(move |(name, _)| name.namespace == namespace)
            .flat_map(|(_, ifindexes)| ifindexes.iter().copied())
    }

    /// The pod of an endpoint, if it is known and is the same pod, not a successor of its name.
    pub fn pod_of(&self, endpoint: &Endpoint) -> Option<&Pod> {
        self.pods.get(&endpoint.pod).filter(|pod| is_pod_of(endpoint, pod))
    }

    /// Whether egress to an address is judged later: it is a Service's or the node's own.
    pub fn is_deferred(&self, addr: Addr) -> bool {
        self.service_addresses.contains_key(&addr) || self.own_addresses.contains(&addr.to_ip())
    }

    /// The addresses of this node's own devices.
    pub fn own_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.own_addresses
    }
}
