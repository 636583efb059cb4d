//! The CNI plugin: no container starts before its policies are in force.
//!
//! In: the environment and the network configuration of a container runtime, as the CNI specification
//! (0.3.0 to 1.1.0) defines them. Out: a result or an error as JSON, and an exit code. ADD reports the pod's interface
//! to the agent, which answers once the policy is in force; without an agent ADD fails.
//!
//! The path of a call: [`environment`] and [`config`] parse the request, [`verbs`] serves it with
//! [`plugin`] (IPAM and delegates), [`netns`], [`veth`] and [`interface`] (the kernel, over `netpol-netlink`) and
//! [`client`] (the agent); [`result`] and [`error`] are the answers. [`conflist`] is for those who install the plugin.
//!
//! Must not: depend on Kubernetes objects or policies, keep state, or take more than a few milliseconds by
//! itself, because it runs once for every pod that starts or ends.
#![forbid(unsafe_code)]

pub mod client;
pub mod config;
pub mod conflist;
pub mod environment;
pub mod error;
pub mod interface;
pub mod netns;
pub mod plugin;
pub mod result;
pub mod subnet_file;
pub mod verbs;
pub mod version;
pub mod veth;

pub use environment::Environment;
pub use verbs::run;
