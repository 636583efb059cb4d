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
    #[cfg(feature = "ebpf")]
    Run(RunArgs),
    #[cfg(feature = "ebpf")]
    Status(StatusArgs),
    #[cfg(feature = "ebpf")]
    Drops(DropsArgs),
    #[cfg(feature = "ebpf")]
    Flows(FlowsArgs),
    Simulate(SimulateArgs),
    Completions(CompletionsArgs),
}

/// Enforce policies on this node until SIGTERM; they stay in force after that.
#[cfg(feature = "ebpf")]
#[derive(Debug, Parser)]
pub(super) struct RunArgs {
    /// Read objects from the YAML files of this directory, and follow them, instead of an API server.
    #[arg(long, value_name = "DIR", env = "NETPOL_MANIFESTS")]
    pub(super) manifests: Option<PathBuf>,
    /// How to reach the API server; without it the in-cluster configuration, else that of kubectl.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG", conflicts_with = "manifests")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Name of the node on which the agent runs: only its own Node object is watched.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(super) node: Option<String>,
    /// Socket of the CNI plugin. The agent keeps its records and its own socket beside it.
    #[arg(long, value_name = "PATH", env = "NETPOL_SOCKET", default_value = netpol_common::proto::SOCKET_PATH)]
    pub(super) socket: PathBuf,
    /// Folder on a BPF file system in which maps and links are pinned, so that they outlive the agent.
    #[arg(long, value_name = "DIR", env = "NETPOL_PIN_ROOT", default_value = "/sys/fs/bpf/netpol")]
    pub(super) pin_root: PathBuf,
    /// Bits of the packet mark that carry egress verdicts past Service translation: 12 adjacent ones that nobody else
    /// on the node uses.
    #[arg(long, value_name = "MASK", env = "NETPOL_TICKET_MASK", default_value = "0xfff00000", value_parser = parse_mask)]
    pub(super) ticket_mask: u32,
    /// Address for `/livez` and `/readyz`, such as 127.0.0.1:9470.
    #[arg(long, value_name = "ADDR", env = "NETPOL_HEALTH")]
    pub(super) health: Option<std::net::SocketAddr>,
    /// Log every verdict of the programs. Slow: for a person who watches a few packets.
    #[arg(long, env = "NETPOL_TRACE")]
    pub(super) trace: bool,
    /// What to log: `error`, `warn`, `info`, `debug`, `trace`, or a tracing filter such as `netpol_agent=debug`.
    #[arg(long, value_name = "FILTER", env = "NETPOL_LOG", default_value = "info")]
    pub(super) log: String,
    /// How to log.
    #[arg(long, value_enum, env = "NETPOL_LOG_FORMAT", default_value_t)]
    pub(super) log_format: LogFormat,
}

/// How to log.
#[cfg(feature = "ebpf")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

#[cfg(feature = "ebpf")]
fn parse_mask(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let mask = u32::from_str_radix(digits, 16).map_err(|error| error.to_string())?;
    let is_contiguous = mask.checked_shr(mask.trailing_zeros()) == Some(0xfff);
    if is_contiguous {
        Ok(mask)
    } else {
        Err("it must be 12 adjacent bits, in hexadecimal".to_owned())
    }
}

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Show what the agent on this node knows and enforces.
#[cfg(feature = "ebpf")]
#[derive(Debug, Parser)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// Show the latest dropped packets with the pods and policies concerned.
#[cfg(feature = "ebpf")]
#[derive(Debug, Parser)]
pub(super) struct DropsArgs {
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// Go on with new ones until interrupted.
    #[arg(short, long)]
    pub(super) follow: bool,
    /// How the result is written; JSON is one object a line.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// List the live connections of this node's pods with the rules that allow them.
#[cfg(feature = "ebpf")]
#[derive(Debug, Parser)]
pub(super) struct FlowsArgs {
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// Which agent to ask.
#[cfg(feature = "ebpf")]
#[derive(Debug, clap::Args)]
pub(super) struct AgentArgs {
    /// The agent's `--socket`.
    #[arg(long, value_name = "PATH", env = "NETPOL_SOCKET", default_value = netpol_common::proto::SOCKET_PATH)]
    pub(super) socket: PathBuf,
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
