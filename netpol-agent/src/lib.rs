//! The agent: keeps policies in force on one node.
//!
//! [`agent`] is the event loop, the only owner of the state. Around it stand the edges: [`manifests`] and the crate
//! `netpol-kube` bring objects, [`cni_server`] the calls of the plugin, [`discovery`] the pods that run already;
//! [`control`] and [`telemetry`] answer questions, [`conflist`] keeps our entry in the node's CNI configuration, and
//! [`cli`] is the way in. What the policies mean is the crate `netpol-policy`, what the kernel does `netpol-datapath`.
#![forbid(unsafe_code)]

pub mod agent;
pub mod cli;
pub mod cni_server;
pub mod conflist;
pub mod control;
pub mod discovery;
pub mod manifests;
pub mod telemetry;
