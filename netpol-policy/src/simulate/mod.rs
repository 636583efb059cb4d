//! A simulated cluster: objects in, verdicts on connections out.
//!
//! In: full sets of objects, and probes. Out: a [`ProbeResult`] for each probe, from the chosen [`Engine`]: the reference
//! semantics, the compiled maps in memory, or the eBPF programs in the kernel. Objects pass through the same stages as in
//! the agent: deltas, store, compile, diff, map operations. Must not: read files, parse manifests, or read a clock.

mod cases;
mod cluster;
mod engine;
mod explain;
mod frame;
mod groups;
mod interfaces;
mod judge;
mod namespaces;
mod offline;
mod path;
mod placeholder;
mod probe;
mod ranges;
mod reachability;
pub(crate) mod routes;
mod target;
pub(crate) mod translation;
mod workloads;

pub use cases::{CaseStreams, run_cases};
pub use cluster::Cluster;
pub use engine::{Datapath, DatapathError, Engine, Judged};
pub use explain::{
    Details, DirectionExplanation, Explanation, Packets, Paint, RuleExplanation, States, TextForm,
    explain, explain_between,
};
pub use interfaces::FIRST_INTERFACE;
pub use judge::JudgedConnection;
pub use namespaces::{assumed_namespaces, with_implicit_namespaces};
pub use offline::{OfflineCluster, Verdict};
pub use placeholder::{Bounds, is_placeholder, with_placeholders};
pub use probe::{PodOrIp, PortChoice, Probe, ProbeResult, Problem};

pub use reachability::{Answer, Reachability, ReachabilityError};
pub use target::{Unresolved, resolve};
pub use workloads::without_represented;

#[cfg(test)]
mod own_node_tests;
#[cfg(test)]
mod tests;
