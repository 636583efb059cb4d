//! The arguments, as typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use netpol_policy::model::Transport;
use netpol_policy::simulate::{End, PortChoice};
use netpol_terminal::Output;

/// Kubernetes NetworkPolicy, enforced by eBPF.
#[derive(Debug, Parser)]
#[command(name = "netpol-agent", version, max_term_width = 100)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Run(RunArgs),
    Status(StatusArgs),
    Drops(DropsArgs),
    Flows(FlowsArgs),
    Explain(ExplainArgs),
    Simulate(SimulateArgs),
    Cni(CniArgs),
    Uninstall(UninstallArgs),
    Completions(CompletionsArgs),
}

/// Enforce policies on this node until SIGTERM; they stay in force after that.

#[derive(Debug, Parser)]
pub(super) struct RunArgs {
    /// Read objects from the YAML files of this directory, and follow them, instead of an API server.
    #[arg(long, value_name = "DIR", env = "NETPOL_MANIFESTS")]
    pub(super) manifests: Option<PathBuf>,
    /// How to reach the API server; without it the in-cluster configuration, else that of kubectl.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG", conflicts_with = "manifests")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Name of the node on which the agent runs: only its own Node object is watched, and its pods that are older than the
    /// agent are looked for.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(super) node: Option<String>,
    /// Folders in which the container runtime keeps the results of CNI plugins: they tell the interfaces of pods that are
    /// older than the agent.
    #[arg(
        long,
        value_name = "DIR",
        env = "NETPOL_CNI_RESULTS",
        value_delimiter = ':',
        default_value = "/var/lib/cni/results"
    )]
    pub(super) cni_results: Vec<PathBuf>,
    /// Folder of the pods' network namespaces, where those interfaces are looked for if the results do not tell.
    #[arg(long, value_name = "DIR", env = "NETPOL_NAMESPACES", default_value = "/run/netns")]
    pub(super) namespaces: PathBuf,
    /// Socket of the CNI plugin. The agent keeps its records and its own socket beside it.
    #[arg(long, value_name = "PATH", env = "NETPOL_SOCKET", default_value = netpol_proto::SOCKET_PATH)]
    pub(super) socket: PathBuf,
    /// Folder on a BPF file system in which maps and links are pinned, so that they outlive the agent.
    #[arg(long, value_name = "DIR", env = "NETPOL_PIN_ROOT", default_value = "/sys/fs/bpf/netpol")]
    pub(super) pin_root: PathBuf,
    /// What to do where the parent of the pin root is no BPF file system.
    #[arg(long, value_enum, env = "NETPOL_BPFFS", default_value_t)]
    pub(super) bpffs: MissingBpfFs,
    /// Bits of the packet mark that carry egress verdicts past Service translation: 12 adjacent ones that nobody else
    /// on the node uses.
    #[arg(long, value_name = "MASK", env = "NETPOL_MARK_MASK", default_value = "0xfff00000", value_parser = parse_mask)]
    pub(super) mark_mask: u32,
    /// Address for `/livez`, `/readyz` and `/metrics`, such as 127.0.0.1:9470.
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

/// What to do where a BPF file system should be and is not.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum MissingBpfFs {
    /// Mount one.
    #[default]
    Mount,
    /// Refuse to start. In a container: what it mounts ends with it, and enforcement too.
    Require,
}

/// How to log.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

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

/// Show what the agent on this node knows and enforces.

#[derive(Debug, Parser)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// Show the latest dropped packets with the pods and policies concerned.

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

#[derive(Debug, Parser)]
pub(super) struct FlowsArgs {
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// Which agent to ask.

#[derive(Debug, clap::Args)]
pub(super) struct AgentArgs {
    /// The agent's `--socket`.
    #[arg(long, value_name = "PATH", env = "NETPOL_SOCKET", default_value = netpol_proto::SOCKET_PATH)]
    pub(super) socket: PathBuf,
}

/// Tell why this node allows or denies a connection: which policies isolate, which rules allow, and which almost do.
///
/// The agent answers from the state that its programs enforce. The exit code is 0 if the connection is allowed, 1 if it is denied
/// and 2 if the question cannot be answered.
#[derive(Debug, Parser)]
pub(super) struct ExplainArgs {
    /// Who opens the connection: `NAMESPACE/POD`, `NAMESPACE/POD@ADDRESS` or an address.
    #[arg(long, value_name = "NS/POD|IP")]
    pub(super) from: End,
    /// Whom it is for.
    #[arg(long, value_name = "NS/POD|IP")]
    pub(super) to: End,
    /// The destination port: a number, or the name of a port of the destination pod.
    #[arg(long, value_name = "PORT", value_parser = PortChoice::from_argument)]
    pub(super) port: PortChoice,
    /// The protocol: TCP, UDP or SCTP.
    #[arg(long, default_value = "TCP", value_parser = Transport::from_argument)]
    pub(super) protocol: Transport,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) agent: AgentArgs,
}

/// Judge many connections without sending any, one case a line. `kubectl netpol simulate` draws the matrix of a cluster.
#[derive(Debug, Parser)]
pub(super) struct SimulateArgs {
    /// Read cases from this file, one JSON object a line; `-` is the standard input. Writes one line of verdicts a case.
    ///
    /// A case: {"name": .., "objects": [..], "probes": [{"from": {"namespace", "pod"} or {"ip"}, "to": .., "port": 80 or
    /// "http", "protocol": "TCP"}]}. Consecutive cases with the same "sequence" are one changing cluster.
    #[arg(long, value_name = "FILE")]
    pub(super) cases: PathBuf,
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
    Kernel,
}

/// Put netpol-cni among the CNI plugins of this node, or take it out again.
#[derive(Debug, Parser)]
pub(super) struct CniArgs {
    #[command(subcommand)]
    pub(super) command: CniCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum CniCommand {
    Install(CniInstallArgs),
    Uninstall(CniUninstallArgs),
}

/// Copy netpol-cni to the other plugins and chain it behind the main plugin of the network. Twice is fine.
#[derive(Debug, Parser)]
pub(super) struct CniInstallArgs {
    #[command(flatten)]
    pub(super) place: CniPathArgs,
    /// The agent's `--socket`, as the node sees it.
    #[arg(long, value_name = "PATH", env = "NETPOL_SOCKET", default_value = netpol_proto::SOCKET_PATH)]
    pub(super) socket: PathBuf,
    /// Go on until SIGTERM: wait for the network's configuration, and come back when somebody rewrites it.
    #[arg(long)]
    pub(super) watch: bool,
}

/// Take netpol-cni out of every configuration and remove its binary. Twice is fine.
#[derive(Debug, Parser)]
pub(super) struct CniUninstallArgs {
    #[command(flatten)]
    pub(super) place: CniPathArgs,
}

/// Take netpol off this node: its CNI configuration, programs, maps and files. Twice is fine. Pods that run go on, unprotected.

#[derive(Debug, Parser)]
pub(super) struct UninstallArgs {
    #[command(flatten)]
    pub(super) place: CniPathArgs,
    /// The agent's `--socket`. The agent must not run any more.
    #[arg(long, value_name = "PATH", env = "NETPOL_SOCKET", default_value = netpol_proto::SOCKET_PATH)]
    pub(super) socket: PathBuf,
    /// The agent's `--pin-root`.
    #[arg(long, value_name = "DIR", env = "NETPOL_PIN_ROOT", default_value = "/sys/fs/bpf/netpol")]
    pub(super) pin_root: PathBuf,
    /// When all is done, stay until SIGTERM: a DaemonSet's pod must not end.
    #[arg(long)]
    pub(super) stay: bool,
}

/// Where the container runtime looks.
#[derive(Debug, clap::Args)]
pub(super) struct CniPathArgs {
    /// The runtime's directory of network configurations.
    #[arg(long, value_name = "DIR", env = "NETPOL_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
    pub(super) conf_dir: PathBuf,
    /// The runtime's directory of plugins.
    #[arg(long, value_name = "DIR", env = "NETPOL_CNI_BIN_DIR", default_value = "/opt/cni/bin")]
    pub(super) bin_dir: PathBuf,
    /// The netpol-cni to copy, or the one that was copied; without it the one beside this program.
    #[arg(long, value_name = "FILE", env = "NETPOL_CNI_PLUGIN")]
    pub(super) plugin: Option<PathBuf>,
}

/// Write a completion script for a shell.
#[derive(Debug, Parser)]
pub(super) struct CompletionsArgs {
    /// The shell.
    pub(super) shell: clap_complete::Shell,
}
