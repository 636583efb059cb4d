//! The arguments of all commands, as typed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand, ValueEnum};
use netpol_policy::model::Transport;
use netpol_policy::simulate::{PodOrIp, PortChoice};
use netpol_policy::store::OwnNodeEgress;
use netpol_terminal::Output;

use crate::agent::{PodTunnels, PublishAddresses, ShortCut};
use crate::control::ListenAddress;

/// Kubernetes NetworkPolicy, enforced by eBPF.
#[derive(Debug, Parser)]
#[command(name = "netpol-agent", version = netpol_proto::build::version(), max_term_width = 100)]
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
    Rules(RulesArgs),
    Policy(PolicyArgs),
    Explain(ExplainArgs),
    Simulate(SimulateArgs),
    Cni(CniArgs),
    Uninstall(UninstallArgs),
    Observe(ObserveArgs),
    Completions(CompletionsArgs),
}

/// Enforce policies on this node until SIGTERM. They stay in force after that.
#[derive(Debug, Parser)]
pub(super) struct RunArgs {
    /// Read objects from the YAML files of this directory, and watch it, instead of an API server.
    #[arg(long, value_name = "DIR", env = "NETPOL_MANIFESTS")]
    pub(super) manifests: Option<PathBuf>,
    /// Kubeconfig file for the API server. Default: the in-cluster configuration, else that of kubectl.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG", conflicts_with = "manifests")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Name of the node on which the agent runs. With it, only this Node object is watched, and pods of the node that are older
    /// than the agent are protected.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(super) node: Option<String>,
    /// Key of a taint that the agent removes from its own Node once it serves, such as `netpol.dev/agent-not-ready`.
    #[arg(long, value_name = "KEY", env = "NETPOL_STARTUP_TAINT", conflicts_with = "manifests")]
    pub(super) startup_taint: Option<String>,
    /// Whether to publish addresses of this node's pods for the agents of other nodes, and to believe theirs, before the API reports
    /// them. It needs Kubernetes 1.30 and the admission policy in `deploy`.
    #[arg(
        long,
        value_enum,
        env = "NETPOL_PUBLISH_ADDRESSES",
        default_value_t,
        conflicts_with = "manifests"
    )]
    pub(super) publish_addresses: PublishAddresses,
    /// Folders in which the container runtime keeps the results of CNI plugins. They name the interfaces of pods that are
    /// older than the agent.
    #[arg(
        long,
        value_name = "DIR",
        env = "NETPOL_CNI_RESULTS",
        value_delimiter = ':',
        default_value = "/var/lib/cni/results"
    )]
    pub(super) cni_results: Vec<PathBuf>,
    /// Folder of the pods' network namespaces. Interfaces that no result names are searched for there.
    #[arg(long, value_name = "DIR", env = "NETPOL_NAMESPACES", default_value = "/run/netns")]
    pub(super) namespaces: PathBuf,
    /// Socket for the CNI plugin. The agent keeps its other files in the same folder.
    #[arg(long, value_name = "PATH", env = "NETPOL_SOCKET", default_value = netpol_proto::SOCKET_PATH)]
    pub(super) socket: PathBuf,
    /// Folder on a BPF file system in which maps and links are pinned, so that they outlive the agent.
    #[arg(long, value_name = "DIR", env = "NETPOL_PIN_ROOT", default_value = "/sys/fs/bpf/netpol")]
    pub(super) pin_root: PathBuf,
    /// What to do if the parent of the pin root is not a BPF file system.
    #[arg(long, value_enum, env = "NETPOL_BPFFS", default_value_t)]
    pub(super) bpffs: MissingBpfFs,
    /// How programs are attached to devices.
    #[arg(long, value_enum, env = "NETPOL_ATTACH", default_value_t)]
    pub(super) attach: Attach,
    /// Bits of the skb mark for the egress mark, which names the sending pod until a Service address is translated: 12
    /// adjacent bits that no other software on the node uses.
    #[arg(long, value_name = "MASK", env = "NETPOL_MARK_MASK", default_value = "0xfff00000", value_parser = parse_mask)]
    pub(super) mark_mask: u32,
    /// What to do with packets of pods to the tunnels between nodes (VXLAN, Geneve, IPIP, GRE and others). Policies cannot judge what
    /// is inside of them.
    #[arg(long, value_enum, env = "NETPOL_POD_TUNNELS", default_value_t)]
    pub(super) pod_tunnels: PodTunnels,
    /// UDP ports of tunnels between nodes that no network device shows: those of `WireGuard`, or of Flannel's UDP backend, unless they are the
    /// usual ones (51820, 51821, 8285). Those of VXLAN and Geneve devices are known.
    #[arg(long, value_name = "PORT", env = "NETPOL_TUNNEL_PORTS", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) tunnel_ports: Vec<u16>,
    /// Whether packets between pods of this node, or of other nodes too, are redirected past the bridge and netfilter, which is faster. Rules of netfilter that
    /// match packets between pods see them no more; docs/design/short-cut.md says what else changes.
    #[arg(long, value_enum, env = "NETPOL_SHORT_CUT", default_value_t)]
    pub(super) short_cut: ShortCut,
    /// `allow`: pods reach their own node whatever their policies say, as Kubernetes documents. `judge`: only where a policy allows it
    /// (docs/security.md). What the node begins always reaches the pod.
    #[arg(long, env = "NETPOL_OWN_NODE_EGRESS", default_value_t, value_parser = own_node_egress())]
    pub(super) own_node_egress: OwnNodeEgress,
    /// Address for `/livez` and `/readyz`: `localhost:9470` is the loopback addresses of both families.
    #[arg(long, value_name = "ADDR", env = "NETPOL_HEALTH")]
    pub(super) health: Option<ListenAddress>,
    /// Address for `/metrics`: `[::]:9471` is every address of both families. Without it, only the control socket serves them.
    #[arg(long, value_name = "ADDR", env = "NETPOL_METRICS")]
    pub(super) metrics: Option<ListenAddress>,
    /// File with a token of the agent's service account for the audience `observe.netpol.dev`. With it, the agent connects to
    /// `netpol-observer`, and answers users whom RBAC allows to ask about a namespace.
    #[arg(long, value_name = "FILE", env = "NETPOL_OBSERVER_TOKEN", conflicts_with = "manifests")]
    pub(super) observer_token: Option<PathBuf>,
    /// Log every verdict of the programs. Slow: for debugging with a few packets.
    #[arg(long, env = "NETPOL_TRACE")]
    pub(super) trace: bool,
    /// What to log: `error`, `warn`, `info`, `debug`, `trace`, or a tracing filter such as `netpol_agent=debug`.
    #[arg(long, value_name = "FILTER", env = "NETPOL_LOG", default_value = "info")]
    pub(super) log: String,
    /// Format of the log.
    #[arg(long, value_enum, env = "NETPOL_LOG_FORMAT", default_value_t)]
    pub(super) log_format: LogFormat,
}

/// How programs are attached to devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Attach {
    /// By TCX links where the kernel has them (6.6), else by clsact filters.
    #[default]
    Auto,
    /// By clsact filters on every kernel, for instance because another program of the node needs to come first or last among these.
    Clsact,
}

/// What to do if there is no BPF file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum MissingBpfFs {
    /// Mount one.
    #[default]
    Mount,
    /// Refuse to start. For containers: a mount of a container ends with it, and enforcement too.
    Require,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Text lines.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

fn own_node_egress() -> impl TypedValueParser<Value = OwnNodeEgress> {
    let names = OwnNodeEgress::ALL.map(|(_, name)| name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<OwnNodeEgress>())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed: Option<jiff::SignedDuration> = text.parse().ok();
    let duration = parsed.and_then(|duration| Duration::try_from(duration).ok());
    duration.ok_or_else(|| "it is no duration, such as 90s or 5m".to_owned())
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

/// Show the state of the agent on this node: sources, maps, policies and endpoints.
#[derive(Debug, Parser)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// Show the latest dropped packets, with their pods and policies.
#[derive(Debug, Parser)]
pub(super) struct DropsArgs {
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// Show new drops too, until interrupted.
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Only drops that are not older than this, such as `90s` or `5m`; as far back as they are kept.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(super) since: Option<Duration>,
    /// With --follow, report within a second how many drops the rate limit has left out.
    #[arg(long, requires = "follow")]
    pub(super) not_shown: bool,
    /// With --follow, end when the standard input ends, or sends nothing for 30 s: for callers that another machine connects.
    #[arg(long, requires = "follow")]
    pub(super) attended: bool,
    /// Format of the result; JSON is one object per line.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// List the live connections of this node's pods, with the rules that allow them.
#[derive(Debug, Parser)]
pub(super) struct FlowsArgs {
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// Only the connections of this pod; in JSON, each with what would decide it now.
    #[arg(long, value_name = "NS/POD")]
    pub(super) pod: Option<String>,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// List the rules in force on this node, with the connections that each has decided since the agent started.
///
/// A connection that several rules allow counts for one of them. A connection to a Service counts when it leaves for its backend. A
/// repeated first packet counts again. A rule that denies counts every attempt.
#[derive(Debug, Parser)]
pub(super) struct RulesArgs {
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// Show whether one policy is in force on this node: in which revision, at which pods, and which connections its rules have decided.
#[derive(Debug, Parser)]
pub(super) struct PolicyArgs {
    /// `NAMESPACE/NAME` of a NetworkPolicy, or `NAME` of a ClusterNetworkPolicy.
    #[arg(value_name = "POLICY")]
    pub(super) policy: String,
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    /// Format of the result.
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

/// Explain why this node allows or denies a connection: which policies isolate, which rules allow, and which nearly do.
///
/// The agent answers from the state that its programs enforce. The exit code is 0 if the connection is allowed, 1 if it is denied
/// and 2 if the command failed.
#[derive(Debug, Parser)]
pub(super) struct ExplainArgs {
    /// The client: `NAMESPACE/POD`, `NAMESPACE/POD@ADDRESS` or an address.
    #[arg(long, value_name = "NS/POD|IP")]
    pub(super) from: PodOrIp,
    /// The server, in the same form.
    #[arg(long, value_name = "NS/POD|IP")]
    pub(super) to: PodOrIp,
    /// The destination port: a number, or the name of a port of the destination pod.
    #[arg(long, value_name = "PORT", value_parser = PortChoice::from_argument)]
    pub(super) port: PortChoice,
    /// The protocol: TCP, UDP or SCTP.
    #[arg(long, default_value = "TCP", value_parser = Transport::from_argument)]
    pub(super) protocol: Transport,
    /// Name all policies and rules. Without it, of a long list the nearest are shown and the others are counted.
    #[arg(long)]
    pub(super) all: bool,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) agent: AgentArgs,
}

/// Give verdicts on many connections without sending packets, one case per line. For the matrix of a cluster see
/// `kubectl netpol simulate`.
#[derive(Debug, Parser)]
pub(super) struct SimulateArgs {
    /// Read cases from this file, one JSON object per line; `-` is the standard input. Writes one line of verdicts per case.
    ///
    /// A case: {"name": .., "objects": [..], "probes": [{"from": {"namespace", "pod"} or {"ip"}, "to": .., "port": 80 or
    /// "http", "protocol": "TCP"}]}. Consecutive cases with the same "sequence" are one changing cluster.
    #[arg(long, value_name = "FILE")]
    pub(super) cases: PathBuf,
    /// Engine that gives the verdicts.
    #[arg(long, value_enum, default_value_t)]
    pub(super) engine: EngineChoice,
    /// How connections of pods to their own node are judged, `allow` or `judge`: as the agents' option of this name.
    #[arg(long, default_value_t, value_parser = own_node_egress())]
    pub(super) own_node_egress: OwnNodeEgress,
}

/// Engine that gives the verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum EngineChoice {
    /// The reference semantics, evaluated on the objects.
    Reference,
    /// The compiled maps, in memory.
    #[default]
    Compiled,
    /// The compiled maps and the real programs, in the kernel (needs root).
    Kernel,
}

/// Add netpol-cni to the CNI plugins of this node, or remove it.
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

/// Copy netpol-cni to the plugins' directory, and chain it behind the main plugin of the network. Can be repeated.
#[derive(Debug, Parser)]
pub(super) struct CniInstallArgs {
    #[command(flatten)]
    pub(super) paths: CniPathArgs,
    /// The agent's `--socket`, as a path on the node.
    #[arg(long, value_name = "PATH", env = "NETPOL_SOCKET", default_value = netpol_proto::SOCKET_PATH)]
    pub(super) socket: PathBuf,
    /// Continue until SIGTERM: wait for the configuration of a network and until the agent has served on this node, and add
    /// netpol-cni again after the configuration is rewritten.
    #[arg(long)]
    pub(super) watch: bool,
}

/// Remove netpol-cni from every configuration, and its binary. Can be repeated.
#[derive(Debug, Parser)]
pub(super) struct CniUninstallArgs {
    #[command(flatten)]
    pub(super) paths: CniPathArgs,
}

/// Remove netpol from this node: its CNI configuration, programs, maps and files. Running pods stay connected, without
/// policies. Can be repeated.
#[derive(Debug, Parser)]
pub(super) struct UninstallArgs {
    #[command(flatten)]
    pub(super) paths: CniPathArgs,
    /// The agent's `--socket`. The agent must have stopped.
    #[arg(long, value_name = "PATH", env = "NETPOL_SOCKET", default_value = netpol_proto::SOCKET_PATH)]
    pub(super) socket: PathBuf,
    /// The agent's `--pin-root`.
    #[arg(long, value_name = "DIR", env = "NETPOL_PIN_ROOT", default_value = "/sys/fs/bpf/netpol")]
    pub(super) pin_root: PathBuf,
    /// Wait for SIGTERM after the removal, because the pod of a DaemonSet must not end.
    #[arg(long)]
    pub(super) stay: bool,
}

/// Serve what all agents know in the API of the cluster, so that RBAC decides who sees the drops, connections and explanations of a
/// namespace. This is no agent: it runs in a pod of its own.
#[derive(Debug, Parser)]
pub(super) struct ObserveArgs {
    /// Kubeconfig file for the API server. Default: the in-cluster configuration, else that of kubectl.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Address of this pod, at which the API server and the agents find it.
    #[arg(long, value_name = "IP", env = "POD_IP")]
    pub(super) address: IpAddr,
    /// Port on which the API server asks, over TLS.
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    pub(super) api_port: u16,
    /// Port to which agents connect, over TLS.
    #[arg(long, value_name = "PORT", default_value_t = 8444)]
    pub(super) agents_port: u16,
    /// What to log: `error`, `warn`, `info`, `debug`, `trace`, or a tracing filter.
    #[arg(long, value_name = "FILTER", env = "NETPOL_LOG", default_value = "info")]
    pub(super) log: String,
    /// Format of the log.
    #[arg(long, value_enum, env = "NETPOL_LOG_FORMAT", default_value_t)]
    pub(super) log_format: LogFormat,
}

/// Directories of the container runtime.
#[derive(Debug, clap::Args)]
pub(super) struct CniPathArgs {
    /// The runtime's directory of network configurations.
    #[arg(long, value_name = "DIR", env = "NETPOL_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
    pub(super) conf_dir: PathBuf,
    /// The runtime's directory of plugins.
    #[arg(long, value_name = "DIR", env = "NETPOL_CNI_BIN_DIR", default_value = "/opt/cni/bin")]
    pub(super) bin_dir: PathBuf,
    /// The netpol-cni binary to copy, or that was copied. Default: the one in the folder of this program.
    #[arg(long, value_name = "FILE", env = "NETPOL_CNI_PLUGIN")]
    pub(super) plugin: Option<PathBuf>,
}

/// Write a completion script for a shell.
#[derive(Debug, Parser)]
pub(super) struct CompletionsArgs {
    /// The shell.
    pub(super) shell: clap_complete::Shell,
}
