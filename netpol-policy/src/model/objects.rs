//! The objects besides policies that policy depends on.

use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::{
    ClusterPolicy, Kind, Labels, ObjectName, ObjectRef, Policy, PortName, Selector, Transport,
};

/// Any object of the cluster that netpol reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A `NetworkPolicy`.
    Policy(Policy),
    /// A `ClusterNetworkPolicy`.
    ClusterPolicy(ClusterPolicy),
    /// A pod.
    Pod(Pod),
    /// A namespace.
    Namespace(Namespace),
    /// A Service.
    Service(Service),
    /// A node.
    Node(Node),
}

impl Object {
    /// Namespace, empty for cluster-scoped objects, and name.
    pub fn full_name(&self) -> (&str, &str) {
        match self {
            Self::Policy(Policy { name, .. })
            | Self::Pod(Pod { name, .. })
            | Self::Service(Service { name, .. }) => (&name.namespace, &name.name),
            Self::ClusterPolicy(ClusterPolicy { name, .. })
            | Self::Namespace(Namespace { name, .. })
            | Self::Node(Node { name, .. }) => ("", name),
        }
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Policy(_) => Kind::NetworkPolicy,
            Self::ClusterPolicy(_) => Kind::ClusterNetworkPolicy,
            Self::Pod(_) => Kind::Pod,
            Self::Namespace(_) => Kind::Namespace,
            Self::Service(_) => Kind::Service,
            Self::Node(_) => Kind::Node,
        }
    }

    /// Kind and name.
    pub fn object_ref(&self) -> ObjectRef {
        let name = match self {
            Self::Policy(Policy { name, .. })
            | Self::Pod(Pod { name, .. })
            | Self::Service(Service { name, .. }) => name.clone(),
            Self::ClusterPolicy(ClusterPolicy { name, .. })
            | Self::Namespace(Namespace { name, .. })
            | Self::Node(Node { name, .. }) => ObjectName::cluster_scoped(name),
        };
        ObjectRef { kind: self.kind(), name }
    }
}

/// The addresses of a pod, mostly one of each family. Stored inline, because the first list of a cluster reads those of every pod.
pub type Addresses = SmallVec<[IpAddr; 2]>;

/// A pod, as far as policy needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the API")]
pub struct Pod {
    /// Namespace and name; another pod can have the same later.
    pub name: ObjectName,
    /// `metadata.uid`: the pod's real identity. Empty for offline input without one.
    pub uid: Arc<str>,
    /// The uid by which the kubelet names a static pod to the container runtime (annotation
    /// `kubernetes.io/config.hash` of its mirror pod); empty for other pods.
    pub static_uid: Arc<str>,
    /// `metadata.creationTimestamp` in seconds since 1970, 0 if unknown: of two pods that hold one
    /// address, the newer one is right.
    pub created_s: i64,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.nodeName`, empty while it is not scheduled.
    pub node: Arc<str>,
    /// `status.podIPs`, IPv4-mapped addresses as IPv4, without duplicates. As the API reports them:
    /// use [`Pod::addresses`] for those that the pod holds.
    pub reported_addresses: Addresses,
    /// `spec.hostNetwork`: its traffic is the node's.
    pub host_network: bool,
    /// `status.phase`.
    pub phase: PodPhase,
    /// `metadata.deletionTimestamp` is set. It is still policed and selectable.
    pub terminating: bool,
    /// Ports of all containers, then of sidecars (init containers with `restartPolicy: Always`).
    pub ports: Arc<[ContainerPort]>,
    /// Asks to send from addresses that are not its own (annotation `netpol/allow-forwarding: "true"`). It may if its namespace
    /// [permits](Namespace::allows_forwarding) it.
    pub allows_forwarding: bool,
    /// Its packets to and from other pods of its node always take the usual way (annotation `netpol/short-cut: "off"`).
    pub declines_short_cut: bool,
}

impl Pod {
    /// The addresses that are this pod's for policy: none once it is finished, and none of its own
    /// when it uses the host's network.
    pub fn addresses(&self) -> &[IpAddr] {
        match self.phase {
            PodPhase::Succeeded | PodPhase::Failed => &[],
            PodPhase::Pending | PodPhase::Running | PodPhase::Unknown => {
                if self.host_network {
                    &[]
                } else {
                    &self.reported_addresses
                }
            }
        }
    }

    /// The numbers of a port name of this pod for one protocol.
    ///
    /// A name may occur twice in a pod: any of its numbers matches.
    pub fn named_ports(&self, name: &PortName, transport: Transport) -> impl Iterator<Item = u16> {
        self.ports
            .iter()
            .filter(move |port| port.transport == transport && port.name.as_ref() == Some(name))
            .map(|port| port.number)
    }
}

/// `status.phase` of a pod. Unknown values and a missing field are `Unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodPhase {
    /// Accepted; init containers may run.
    Pending,
    /// At least one container runs.
    Running,
    /// All containers ended well: the address may already belong to another pod.
    Succeeded,
    /// All containers ended: likewise.
    Failed,
    /// The node cannot be asked, or nothing is said.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerPort {
    /// `name`, if it has one.
    pub name: Option<PortName>,
    /// `protocol`, TCP when missing.
    pub transport: Transport,
    /// `containerPort`, host byte order, 1 to 65535.
    pub number: u16,
    /// `hostPort`, host byte order: the port of the node that is translated to it.
    pub host_port: Option<u16>,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`, with `kubernetes.io/metadata.name` as the API server sets it.
    pub labels: Labels,
    /// `metadata.deletionTimestamp` is set: its objects are being deleted, in any order. It still selects.
    pub terminating: bool,
    /// Its pods may forward if they ask for it (annotation `netpol/allow-forwarding: "true"`). Only who may change namespaces can
    /// permit it, because such a pod can pose as others.
    pub allows_forwarding: bool,
}

/// A Service. Only its addresses matter for what is enforced; the rest is for explanations, which have to find the pods
/// behind it as kube-proxy does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// Cluster, external and load-balancer addresses, without duplicates. Headless: none.
    pub addresses: Vec<IpAddr>,
    /// Those for clients outside the cluster: external and load-balancer addresses.
    pub external_addresses: Vec<IpAddr>,
    /// Whether a node that translates an external address or a `nodePort` keeps the source address, and chooses one of its own
    /// pods (`externalTrafficPolicy: Local`).
    pub keeps_source: bool,
    /// `spec.selector`: the pods behind it, in its namespace. `None` when somebody else writes its endpoints.
    pub selector: Option<Selector>,
    /// `spec.ports`, those that can be understood.
    pub ports: Vec<ServicePort>,
    /// The ready endpoints that `EndpointSlices` list, if the Service has no selector. Only offline input has them.
    pub backends: Vec<ServiceBackend>,
}

/// An endpoint of a Service without a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceBackend {
    /// Name of the Service's port; empty if it has none.
    pub port_name: Arc<str>,
    /// The protocol.
    pub transport: Transport,
    /// Address of the endpoint.
    pub address: IpAddr,
    /// The endpoint's port, host byte order.
    pub number: u16,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`, empty if it has none.
    pub name: Arc<str>,
    /// `protocol`, TCP when missing.
    pub transport: Transport,
    /// `port`, host byte order, 1 to 65535.
    pub number: u16,
    /// `nodePort`, host byte order: the port of every node that is translated to a backend.
    pub node_port: Option<u16>,
    /// `targetPort`, the same number when missing.
    pub backend: BackendPort,
}

/// Where a Service's traffic arrives on a pod behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendPort {
    /// The same port on every pod.
    Number(u16),
    /// The first port of this name and protocol of each pod.
    Named(PortName),
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `status.addresses` that are addresses (internal and external), without duplicates.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`: where its pods have their addresses. Empty if it has none, and without those that are no ranges.
    pub pod_ranges: Vec<IpNetwork>,
}
