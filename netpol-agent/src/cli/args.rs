//! The arguments, as typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Kubernetes NetworkPolicy, enforced by eBPF.
#[derive(Debug, Parser)]
#[command(name = "netpol-agent", version, max_term_width = 100)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Simulate(SimulateArgs),
    Completions(CompletionsArgs),
}

/// Judge connections in a cluster that exists only in files.
#[derive(Debug, Parser)]
pub(super) struct SimulateArgs {
    /// Read cases from this file, one JSON object a line; `-` is the standard input. Writes one line of verdicts a case.
    ///
    /// A case: {"name": .., "objects": [..], "probes": [{"from": {"namespace", "pod"} or {"ip"}, "to": .., "port": 80 or
    /// "http", "protocol": "TCP"}]}. Consecutive cases with the same "sequence" are one changing cluster.
    #[arg(long, value_name = "FILE")]
    pub(super) cases: Option<PathBuf>,
    /// Who gives the verdicts.
    #[arg(long, value_enum, default_value_t)]
    pub(super) engine: EngineChoice,
}

/// Who gives the verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum EngineChoice {
    /// The reference semantics, straight from the objects.
    Reference,
    /// The compiled maps, in memory.
    #[default]
    Compiled,
    /// The compiled maps and the real programs, in the kernel (needs root).
    #[cfg(feature = "ebpf")]
    Kernel,
}

/// Write a completion script for a shell.
#[derive(Debug, Parser)]
pub(super) struct CompletionsArgs {
    /// The shell.
    pub(super) shell: clap_complete::Shell,
}
