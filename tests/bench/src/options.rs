//! The command line of the benchmark. xtask includes this file, because `cargo xtask bench` passes its arguments on: so
//! it uses clap and nothing else.

use std::path::PathBuf;

/// Options of `bench`.
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// What is measured: dp (packets), cp (the agent), cni (starting pods), soak (what a load of minutes leaves).
    pub suite: String,
    /// Small sizes: a test that the benchmark works; times mean nothing, nothing is written unless told where.
    #[arg(long)]
    pub quick: bool,
    /// How often each configuration is measured.
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// Measure although the machine is busy.
    #[arg(long)]
    pub anyway: bool,
    /// Only this part of the suite (dp: verdicts, writes, memory, flood, bulk; cp: cold, worst, events, agent, load);
    /// prints everything, writes nothing.
    #[arg(long)]
    pub part: Option<String>,
    /// Seed of the order.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The folder with the agent and the CNI plugin that are measured. `cargo xtask bench` names that of static ones,
    /// which run on nodes.
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
    /// Where benchmarks.md and the folder benchmarks are written. `cargo xtask bench` names docs.
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}
