//! A cluster that exists only here: objects in, verdicts on connections out.
//!
//! In: full sets of objects, and probes. Out: an [`Answer`] for each probe, from the [`Engine`] of choice: the reference
//! semantics, the compiled maps in memory, or the real programs. Objects go the way that they go in the agent:
//! deltas, store, compile, diff, map operations. Must not: read files, know Kubernetes' wire form, or hold a clock.

mod cases;
mod cluster;
mod engine;
mod explain;
mod frame;
mod interfaces;
mod locate;
mod probe;
mod walk;

pub use cases::{CaseStreams, answer_cases};
pub use cluster::{Cluster, with_implicit_namespaces};
pub use engine::{Datapath, DatapathError, Engine, Judged};
pub use explain::{EndExplanation, Explanation, Packets, RuleSays, explain};
pub use interfaces::FIRST_INTERFACE;
pub use probe::{Answer, End, PortChoice, Probe, Problem};

#[cfg(test)]
mod tests;
