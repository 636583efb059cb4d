//! The CNI plugin as a process: environment and standard input in, JSON and exit code out.
//!
//! The agent is a thread with the real protocol; the other plugins are Debian's. All networks are in network namespaces of the
//! test; the plugin runs in the one that stands for the node.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of it is test, also outside functions marked so"
)]

mod chained;
mod delegate;
mod fake_agent;
mod input;
mod main_plugin;
mod node;
mod subnet_file;
