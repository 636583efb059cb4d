//! The agent: enforces Kubernetes `NetworkPolicies` on one node.
//!
//! A tour, in the order of the data:
//!
//! 1. Sources send updates of objects: the crate `netpol-kube` watches an API server, [`manifests`] a directory of YAML files.
//! 2. [`cni_server`] receives the calls of the CNI plugin, one for each pod that is added or removed. [`discovery`] searches for
//!    the interfaces of pods that are older than the agent.
//! 3. [`agent`] is the event loop, the only owner of the state. It applies these inputs to the state, has the crate
//!    `netpol-policy` compile the policies to map operations, and has the crate `netpol-datapath` apply them to the kernel.
//! 4. [`control`] serves questions about the running agent over HTTP, and [`telemetry`] formats its metrics.
//! 5. [`conflist`] adds the CNI plugin to the node's CNI configuration, and removes it again.
//! 6. [`cli`] is the command line: `run` starts all of the above, the other commands ask a running agent or change the node.
#![forbid(unsafe_code)]

pub mod agent;
pub mod cli;
pub mod cni_server;
pub mod conflist;
pub mod control;
mod denial;
pub mod discovery;
mod folder_events;
pub mod manifests;
mod own_process;
pub mod telemetry;
