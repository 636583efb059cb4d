//! The command line of the benchmark. xtask includes this file, because `cargo xtask bench` passes its arguments on: so
//! it uses clap and nothing else.

use std::path::PathBuf;

/// Options of `bench`.
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// What is measured: dp (packets), cp (the agent), cni (starting pods), soak (leaks under load), offline (netpol on files).
    pub suite: String,
    /// Small sizes, which only test the benchmark. Writes nothing without --output.
    #[arg(long)]
    pub quick: bool,
    /// Number of rounds.
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// Measure on a busy machine too.
    #[arg(long)]
    pub anyway: bool,
    /// Only this part of the suite (dp: verdicts, tiers, short-cut, writes, memory, flood, bulk; cp: cold, worst, events, agent, load,
    /// hostile).
    /// Prints everything and writes nothing.
    #[arg(long)]
    pub part: Option<String>,
    /// Seed of the order of measurements.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The folder of the agent and the CNI plugin to measure [default of cargo xtask bench: the static programs of the
    /// image].
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
    /// The folder for benchmarks.md and the folder benchmarks [default of cargo xtask bench: docs].
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}
