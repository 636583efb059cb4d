//! From API objects to the model.
//!
//! In: decoded objects, from a watch as trimmed types or from YAML as [`serde_json::Value`]. Out: the
//! object and what was found in it. An object is `None` only when it has no name; everything else that
//! is not understood is left out of it in the direction that allows less, and reported.
//! Must not: fail, panic, or know where the object came from.

mod address;
mod cluster_policy;
mod decode;
mod endpoints;
mod generated_name;
mod metadata;
mod node;
mod nullable;
mod object;
mod pod;
mod policy;
mod selector;
mod service;
mod syntax;
mod unsupported;
mod walk;
mod workload;

pub use address::canonical_block;
pub use cluster_policy::cluster_policy;
pub use endpoints::{ListedBackends, listed_backends};
pub use generated_name::name_generated;
pub use metadata::{Metadata, reads_annotation};
pub use node::{
    NamespaceSpec, NamespaceStatus, NodeAddress, NodeSpec, NodeStatus, namespace, node,
};
pub use object::{Converted, expand, inherit, list_item_kind, object};
pub use pod::{Container, DeclaredPort, PodAddress, PodSpec, PodStatus, pod};
pub use policy::policy;
pub use service::{
    LoadBalancerIngress, LoadBalancerStatus, OfferedPort, ServiceSpec, ServiceStatus, service,
};
pub use unsupported::{Unsupported, unsupported};
pub use workload::workload;
