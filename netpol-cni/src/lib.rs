//! The CNI plugin: no container runs before its policy does.
//!
//! In: the environment and the network configuration of a container runtime, as the CNI specification
//! (0.3.0 to 1.1.0) has them. Out: a result or an error as JSON, and an exit code. On ADD the agent is
//! told of the pod's interface and answers once the policy is in force; without an agent ADD fails.
//!
//! The way of a call: [`environment`] and [`config`] say what is wanted, [`verbs`] does it with the help of
//! [`plugin`] (IPAM and delegates), [`netns`], [`netlink`], [`veth`] and [`interface`] (the kernel) and
//! [`client`] (the agent); [`result`] and [`error`] are the answers.
//!
//! Must not: know Kubernetes objects or policies, hold state of its own, or need more than a few
//! milliseconds of its own time: it runs once for every pod that starts or ends.
#![forbid(unsafe_code)]

pub mod client;
pub mod config;
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
