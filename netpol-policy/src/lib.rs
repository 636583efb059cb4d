//! The pure core: from Kubernetes objects to single operations on maps.
//!
//! The modules stand in the order of the data: [`model`] normalises objects, [`store`] holds them, [`resolve`] says what
//! the policies mean for one endpoint, [`compile`] turns that into the content of the maps and [`dataplane`] into single
//! map operations, behind the port that the kernel side implements. [`source`] and [`manifests`] bring objects;
//! [`lint`] and [`simulate`] answer questions about them, and [`learn`] writes policies from connections. Must not: use a clock, the network, or files other than those
//! that the caller names; know tokio, kube or aya.
#![forbid(unsafe_code)]

pub mod compile;
pub mod dataplane;
pub mod learn;
pub mod lint;
pub mod manifests;
pub mod model;
pub mod resolve;
pub mod simulate;
pub mod source;
pub mod store;
