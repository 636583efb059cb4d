//! The agent: from Kubernetes objects to pinned BPF maps.
//!
//! The way of the data is the order of the modules: [`model`] normalises objects, [`store`] holds them.
#[cfg(feature = "ebpf")]
pub mod cni_server;
pub mod model;
pub mod source;
pub mod store;
