//! The arguments, as typed.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::model::{PortName, Transport};
use crate::simulate::{End, PortChoice};

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
    Explain(ExplainArgs),
    Lint(LintArgs),
    Simulate(SimulateArgs),
    Cni(CniArgs),
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

/// Which agent to ask: this build cannot.
#[cfg(not(feature = "ebpf"))]
#[derive(Debug, clap::Args)]
pub(super) struct AgentArgs {}

/// Tell why a connection is allowed or denied: which policies isolate, which rules allow, and which almost do.
///
/// Asks the agent on this node, or with -f the objects in files. The exit code is 0 if the connection is allowed and 1
/// if it is denied.
#[derive(Debug, Parser)]
pub(super) struct ExplainArgs {
    /// Who opens the connection: `NAMESPACE/POD`, `NAMESPACE/POD@ADDRESS` or an address.
    #[arg(long, value_name = "NS/POD|IP")]
    pub(super) from: End,
    /// Whom it is for.
    #[arg(long, value_name = "NS/POD|IP")]
    pub(super) to: End,
    /// The destination port: a number, or the name of a port of the destination pod.
    #[arg(long, value_name = "PORT", value_parser = parse_port)]
    pub(super) port: PortChoice,
    /// The protocol: TCP, UDP or SCTP.
    #[arg(long, default_value = "TCP", value_parser = parse_transport)]
    pub(super) protocol: Transport,
    /// Files and directories with objects (YAML or JSON), `-` for the standard input.
    #[arg(short, long = "file", value_name = "PATH", num_args = 1..)]
    pub(super) files: Vec<PathBuf>,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) agent: AgentArgs,
}

/// Find what is valid, and probably not what was meant. The checks are listed in docs/lint.md.
#[derive(Debug, Parser)]
pub(super) struct LintArgs {
    /// Files and directories with objects (YAML or JSON), `-` for the standard input. Checks that compare policies with
    /// pods, namespaces and Services need those too.
    #[arg(short, long = "file", value_name = "PATH", num_args = 1.., required = true)]
    pub(super) files: Vec<PathBuf>,
    /// How the findings are written.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: LintOutput,
    /// From which level on findings make the exit code 1.
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t)]
    pub(super) deny: DenyLevel,
    /// Leave out the findings with this code or name, such as NP031 or `no-dns`.
    #[arg(long, value_name = "CODE")]
    pub(super) allow: Vec<String>,
}

/// How findings are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LintOutput {
    /// A line for each, and what to do about it.
    #[default]
    Text,
    /// An array of objects.
    Json,
    /// SARIF 2.1.0, for code hosts.
    Sarif,
}

/// From which level on findings count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum DenyLevel {
    /// What is not in force as written.
    #[default]
    Errors,
    /// Also what is probably not meant.
    Warnings,
    /// Also what is worth knowing.
    Infos,
}

/// Judge connections in a cluster that exists only in files: the matrix of who reaches whom, or many cases at once.
#[derive(Debug, Parser)]
pub(super) struct SimulateArgs {
    #[command(flatten)]
    pub(super) files: Files,
    /// Draw the matrix; so it is anyway without --cases.
    #[arg(long, conflicts_with = "cases")]
    pub(super) matrix: bool,
    /// Ports to ask about, such as `80`, `53/UDP` or `http`; without it those that the pods declare.
    #[arg(long = "port", value_name = "PORT[/PROTOCOL]", value_delimiter = ',', value_parser = parse_port_arg, conflicts_with = "cases")]
    pub(super) ports: Vec<PortArg>,
    /// Addresses outside the cluster to ask about too.
    #[arg(long = "address", value_name = "IP", value_delimiter = ',', conflicts_with = "cases")]
    pub(super) addresses: Vec<IpAddr>,
    /// How the verdicts are written.
    #[arg(short, long, value_enum, default_value_t, conflicts_with = "cases")]
    pub(super) output: Output,
    /// Read cases from this file, one JSON object a line; `-` is the standard input. Writes one line of verdicts a case.
    ///
    /// A case: {"name": .., "objects": [..], "probes": [{"from": {"namespace", "pod"} or {"ip"}, "to": .., "port": 80 or
    /// "http", "protocol": "TCP"}]}. Consecutive cases with the same "sequence" are one changing cluster.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(super) cases: Option<PathBuf>,
    /// Who gives the verdicts.
    #[arg(long, value_enum, default_value_t)]
    pub(super) engine: EngineChoice,
}

/// A port to ask about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortArg {
    pub(super) port: PortChoice,
    pub(super) transport: Transport,
}

impl fmt::Display for PortArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.transport)
    }
}

fn parse_port_arg(text: &str) -> Result<PortArg, String> {
    let (port, transport) = match text.split_once('/') {
        None => (text, Transport::Tcp),
        Some((port, transport)) => (port, parse_transport(transport)?),
    };
    Ok(PortArg { port: parse_port(port)?, transport })
}

fn parse_port(text: &str) -> Result<PortChoice, String> {
    let port = PortChoice::from(text);
    let is_valid = match &port {
        PortChoice::Number(number) => *number != 0,
        PortChoice::Name(name) => PortName::parse(name).is_some(),
    };
    if is_valid {
        Ok(port)
    } else {
        Err("it is neither a number from 1 to 65535 nor a port name".to_owned())
    }
}

fn parse_transport(text: &str) -> Result<Transport, String> {
    Transport::from_api(&text.to_uppercase()).ok_or_else(|| "it is TCP, UDP or SCTP".to_owned())
}

/// `-f PATH.. [--what-if -f PATH..]`: what comes after `--what-if` changes what comes before.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// The objects that there are.
    pub(super) before: Vec<PathBuf>,
    /// The objects that are added or replaced; `None` without `--what-if`.
    pub(super) after: Option<Vec<PathBuf>>,
}

impl clap::Args for Files {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new("file")
            .short('f')
            .long("file")
            .value_name("PATH")
            .num_args(1..)
            .action(ArgAction::Append)
            .value_parser(clap::value_parser!(PathBuf))
            .help("Files and directories with objects (YAML or JSON), `-` for the standard input");
        let what_if = Arg::new("what-if")
            .long("what-if")
            .action(ArgAction::SetTrue)
            .requires("file")
            .help("Show what would change if the files named after this were applied: --what-if -f NEW");
        command.arg(file).arg(what_if)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Files {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let paths = matches.get_many::<PathBuf>("file").into_iter().flatten().cloned();
        let places = matches.indices_of("file").into_iter().flatten();
        let what_if = matches.get_flag("what-if").then(|| matches.index_of("what-if")).flatten();
        let (after, before): (Vec<_>, Vec<_>) =
            paths.zip(places).partition(|(_, place)| what_if.is_some_and(|begin| *place > begin));
        let paths =
            |files: Vec<(PathBuf, usize)>| files.into_iter().map(|(path, _)| path).collect();
        Ok(Self { before: paths(before), after: what_if.map(|_| paths(after)) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
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
    pub(super) place: CniPlaceArgs,
    /// The agent's `--socket`, as the node sees it.
    #[arg(long, value_name = "PATH", env = "NETPOL_SOCKET", default_value = netpol_common::proto::SOCKET_PATH)]
    pub(super) socket: PathBuf,
    /// Go on until SIGTERM: wait for the network's configuration, and come back when somebody rewrites it.
    #[arg(long)]
    pub(super) watch: bool,
}

/// Take netpol-cni out of every configuration and remove its binary. Twice is fine.
#[derive(Debug, Parser)]
pub(super) struct CniUninstallArgs {
    #[command(flatten)]
    pub(super) place: CniPlaceArgs,
}

/// Where the container runtime looks.
#[derive(Debug, clap::Args)]
pub(super) struct CniPlaceArgs {
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
