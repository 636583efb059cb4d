//! The object in which each node's agent publishes addresses of its pods before the API reports them: a `ConfigMap` of the node's
//! name. Why a `ConfigMap`: `docs/design/known-at-once.md`.
//!
//! In: the pods of the own node. Out: the object of the own node, and through [`follow`] what the other nodes publish. Must not: decide
//! whether a node is believed, because only the store knows the pods.

mod follow;
mod text;
mod write;

pub use follow::{Followed, follow};
pub use write::{Guard, guard, node_uid, publish, published};
pub(super) use write::{limited, request_error};

/// The namespace of the objects.
pub const NAMESPACE: &str = "netpol-system";

/// The `ValidatingAdmissionPolicy` that keeps each agent to its own object, and its binding. Without both, nothing is published and
/// nothing believed.
pub const GUARD: &str = "netpol-agent-addresses";

/// Most pods that one object is about. A node runs 110 unless it is told otherwise, and most of them are known to the API.
pub const MAX_PODS: usize = 512;

/// Label and value of the objects.
const LABEL: [&str; 2] = ["app.kubernetes.io/component", "node-addresses"];

/// Key of the text in the object's `data`.
const KEY: &str = "addresses";
