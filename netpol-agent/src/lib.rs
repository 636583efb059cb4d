//! The agent: from Kubernetes objects to pinned BPF maps.
//!
//! The way of the data is the order of the modules: [`model`] normalises objects, [`store`] holds them.
pub mod model;
pub mod source;
pub mod store;
