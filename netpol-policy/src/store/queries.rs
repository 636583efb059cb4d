//! Queries on the known cluster.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::IfIndex;

use super::label_classes::{LabelClass, LabelClassId};
use super::label_index::Candidates;
use super::{ClusterState, Endpoint, OwnNodeEgress, is_pod_of};
use crate::model::{
    ClusterPolicy, Kind, Labels, Namespace, Node, ObjectName, ObjectRef, Pod, Policy, PortName,
    Selector, Service, ServiceBackend, Transport,
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
            Kind::ClusterNetworkPolicy => {
                self.cluster_policies.keys().map(cluster_scoped).collect()
            }
            Kind::Namespace => self.namespaces.keys().map(cluster_scoped).collect(),
            Kind::Node => self.nodes.keys().map(cluster_scoped).collect(),
        }
    }

    /// A pod by name.
    pub fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.pods.get(name)
    }

    /// All pods, by name. They are sorted by each call.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter()
    }

    /// All pods, in no particular order.
    pub fn unsorted_pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.unsorted()
    }

    /// The pods of one namespace, by name.
    pub fn pods_in(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        self.pods.of_namespace(namespace)
    }

    /// The owner of an address: the newest of several pods. A pod that reports it comes before one whose node publishes it.
    pub fn owner(&self, address: IpAddr) -> Option<&Pod> {
        self.pods.at(self.pods.owner(Addr::from(address))?)
    }

    /// The addresses of nodes that run host-network pods, as these pods report them. Every node runs some: kube-proxy, the network
    /// of the cluster, this agent.
    pub fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.pods.node_addresses()
    }

    /// A number that grows when [`Self::node_addresses`] changes.
    pub fn n_node_changes(&self) -> u64 {
        self.pods.n_node_changes
    }

    /// Upper bound of the number of addresses with an owner.
    pub fn n_addresses(&self) -> usize {
        self.pods.owners.len() + self.pods.published.len()
    }

    /// Every address with its owner, by address.
    pub fn owned_addresses(&self) -> impl Iterator<Item = (IpAddr, &Pod)> {
        let mut owned: Vec<_> = self.pods.owned().collect();
        owned.sort_unstable_by_key(|(addr, _)| *addr);
        owned.into_iter().filter_map(|(addr, id)| Some((addr.to_ip(), self.pods.at(id)?)))
    }

    /// The addresses that a pod owns: those that no newer pod reports.
    pub fn held_addresses<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = IpAddr> + 'a {
        let is_its =
            |address: &IpAddr| self.owner(*address).is_some_and(|owner| owner.name == pod.name);
        self.addresses_of(pod).filter(is_its)
    }

    /// The label class of the owner of an address.
    pub fn label_class_at(&self, addr: Addr) -> Option<LabelClassId> {
        self.pods.label_class(self.pods.owner(addr)?)
    }

    /// The label class of a known pod.
    pub fn label_class_of(&self, pod: &Pod) -> Option<LabelClassId> {
        self.pods.label_class(self.pods.id(&pod.name)?)
    }

    /// Every address with an owner in these ranges, with the label class of the owner, in no particular order. The ranges are
    /// sorted and disjoint.
    pub fn label_classes_within(
        &self,
        ranges: &[RangeInclusive<Addr>],
    ) -> impl Iterator<Item = (Addr, LabelClassId)> {
        let held = self.pods.owned_within(ranges);
        held.filter_map(|(addr, id)| Some((addr, self.pods.label_class(id)?)))
    }

    /// The addresses that the pods of a label class own.
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

    /// All label classes, in no particular order.
    pub fn label_classes(&self) -> impl Iterator<Item = (LabelClassId, &LabelClass)> {
        self.pods.label_classes.iter()
    }

    /// Number of label classes.
    pub fn n_label_classes(&self) -> usize {
        self.pods.label_classes.len()
    }

    /// The label classes of a namespace.
    pub fn label_classes_in(&self, namespace: &str) -> &[LabelClassId] {
        self.pods.label_classes.of_namespace(namespace)
    }

    /// The label classes whose pods have a port of this name, by the numbers of that port.
    pub fn label_classes_with_port(
        &self,
        transport: Transport,
        name: &PortName,
    ) -> impl Iterator<Item = (&[u16], &[LabelClassId])> {
        self.pods.label_classes.with_port_name(transport, name)
    }

    /// A superset of the label classes that a selector selects; `None` if it would be all.
    pub fn label_class_candidates<'a>(
        &'a self,
        selector: &'a Selector,
    ) -> Option<Candidates<'a, LabelClassId>> {
        self.pods.label_classes.candidates(selector)
    }

    /// A superset of the namespaces that a selector selects; `None` if it would be all.
    pub fn namespace_candidates<'a>(
        &'a self,
        selector: &'a Selector,
    ) -> Option<Candidates<'a, Arc<str>>> {
        self.namespaces_by_label.candidates(selector)
    }

    /// The labels of a namespace; `None` while it is unknown, when only the empty selector matches it.
    pub fn namespace_labels(&self, namespace: &str) -> Option<&Labels> {
        self.namespaces.get(namespace).map(|namespace| &namespace.labels)
    }

    /// Number of namespaces.
    pub fn n_namespaces(&self) -> usize {
        self.namespaces.len()
    }

    /// A namespace by name.
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
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

    /// Number of policies.
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

    /// A ClusterNetworkPolicy by name.
    pub fn cluster_policy(&self, name: &str) -> Option<&ClusterPolicy> {
        self.cluster_policies.get(name)
    }

    /// All ClusterNetworkPolicies, by name.
    pub fn cluster_policies(&self) -> impl Iterator<Item = &ClusterPolicy> {
        self.cluster_policies.values()
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

    /// The pod of an endpoint, if it is known; never a successor with the same name.
    pub fn pod_of(&self, endpoint: &Endpoint) -> Option<&Pod> {
        self.pods.get(&endpoint.pod).filter(|pod| is_pod_of(endpoint, pod))
    }

    /// Whether the egress verdict for a destination should be deferred: the address is a Service's or the node's own.
    pub fn is_deferred(&self, addr: Addr) -> bool {
        self.is_service_address(addr) || self.own_addresses.all.contains(&addr.to_ip())
    }

    /// Whether connections of pods to their own node need a rule that allows them.
    pub fn judges_own_node(&self) -> bool {
        self.own_node_egress == OwnNodeEgress::Judge
    }

    /// How connections of pods to their own node are treated.
    pub fn own_node_egress(&self) -> OwnNodeEgress {
        self.own_node_egress
    }

    /// Sets how connections of pods to their own node are treated. What was compiled before has to be compiled from nothing.
    pub fn set_own_node_egress(&mut self, egress: OwnNodeEgress) {
        self.own_node_egress = egress;
    }

    /// All host-network pods, in no particular order.
    pub fn pods_on_host(&self) -> impl Iterator<Item = &Pod> {
        self.pods.on_host()
    }

    /// The backends that `EndpointSlices` list for a Service, except for those that a controller writes from its selector. `None` if they
    /// are not known, which cannot be of a Service with a selector.
    pub fn listed_backends<'a>(
        &'a self,
        service: &'a Service,
    ) -> Option<impl Iterator<Item = &'a ServiceBackend>> {
        let listed = self.listed_backends.as_ref();
        if service.selector.is_none() && service.backends.is_empty() && listed.is_none() {
            return None;
        }
        let listed = listed.and_then(|listed| listed.get(&service.name));
        Some(service.backends.iter().chain(listed.into_iter().flatten()))
    }

    /// Whether a Service has the address.
    pub fn is_service_address(&self, addr: Addr) -> bool {
        self.service_addresses.contains_key(&addr)
    }

    /// Number of different addresses of Services.
    pub fn n_service_addresses(&self) -> usize {
        self.service_addresses.len()
    }

    /// Whether the packets of this pod interface may be redirected to others of which this holds.
    pub fn takes_short_cut(&self, ifindex: IfIndex) -> bool {
        self.short_cuts.contains(&ifindex)
    }

    /// The addresses of this node's own devices.
    pub fn own_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.own_addresses.all
    }

    /// Whether this node translates the ports of a Service at this address of its own. A program of the node, such as a DNS cache, may
    /// have taken the cluster address of a Service: then nothing translates it.
    pub fn is_translated_at(&self, service: &Service, own: IpAddr) -> bool {
        service.external_addresses.contains(&own)
            || (service.addresses.contains(&own) && self.own_addresses.of_ipvs.contains(&own))
    }
}
