//! Kubernetes objects, normalised once.
//!
//! In: decoded API objects (from a watch or from YAML). Out: plain values in which nil and empty no
//! longer differ, defaults are filled in and every selector, port and address block has been checked.
//! What could not be understood is reported as a [`Diagnostic`] and is never silently allowed.
//! Must not: know where an object came from, hold a clock, or read anything.

mod cluster_policy;
pub mod convert;
mod diagnostic;
mod interner;
mod ip_block;
mod names;
mod objects;
mod policy;
mod ports;
mod selector;
mod workload;

pub use cluster_policy::{Action, ClusterPolicy, ClusterRule, ClusterTier, Subject};
pub(crate) use diagnostic::codes;
pub use diagnostic::{Code, Diagnostic, Severity};
pub use interner::Interner;
pub use ip_block::IpBlock;
pub use names::{Kind, ObjectName, ObjectRef};
pub use objects::{
    Addresses, BackendPort, ContainerPort, Namespace, Node, Object, Pod, PodPhase, Service,
    ServiceBackend, ServicePort,
};
pub use policy::{
    NamespaceMatch, Peer, Peers, Policy, PolicyMode, PolicyTypes, Ports, Revision, Rule,
};
pub use ports::{PortMatch, PortName, PortRange, PortSpec, Transport};
pub use selector::{Labels, Requirement, Selector, Values};
pub use workload::{PodInWords, WORKLOADS, WorkloadKind};
