//! The agent: from Kubernetes objects to pinned BPF maps.
//!
//! The way of the data is the order of the modules: [`model`] normalises objects, [`store`] holds them, [`resolve`]
//! says what the policies mean for one endpoint, [`compile`] turns that into the content of the maps and
//! [`dataplane`] into single map operations. These know no clock, no IO and no history; the edges around them do.
#[cfg(feature = "ebpf")]
pub mod agent;
pub mod cli;
#[cfg(feature = "ebpf")]
pub mod cni_server;
pub mod compile;
pub mod conflist;
#[cfg(feature = "ebpf")]
pub mod control;
pub mod dataplane;
#[cfg(feature = "ebpf")]
pub mod discovery;
#[cfg(feature = "ebpf")]
pub mod ebpf;
#[cfg(feature = "kube")]
pub mod kube;
pub mod lint;
pub mod manifests;
pub mod model;
#[cfg(feature = "ebpf")]
pub mod netlink;
pub mod resolve;
pub mod simulate;
pub mod source;
pub mod store;
#[cfg(feature = "ebpf")]
pub mod telemetry;
