//! The arguments, as typed.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, FromArgMatches, Parser, Subcommand, ValueEnum};

use netpol_policy::model::Transport;
use netpol_policy::simulate::{End, PortChoice};
use netpol_terminal::Output;

/// Kubernetes NetworkPolicies, judged without a node.
#[derive(Debug, Parser)]
#[command(name = "netpol", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Explain(ExplainArgs),
    Lint(LintArgs),
    Simulate(SimulateArgs),
    Completions(CompletionsArgs),
}

/// Whether the objects of a live cluster count.
#[derive(Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// Take the objects of the cluster that kubectl would reach; those in files come on top.
    #[arg(long)]
    pub(crate) cluster: bool,
    /// How to reach the cluster; without it as kubectl does.
    #[arg(long, value_name = "FILE", requires = "cluster")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

impl ClusterArgs {
    /// Whether objects are taken from a cluster.
    pub(crate) const fn is_asked(&self) -> bool {
        self.cluster
    }
}

/// Tell why a connection is allowed or denied: which policies isolate, which rules allow, and which almost do.
///
/// The exit code is 0 if the connection is allowed, 1 if it is denied and 2 if the question cannot be answered.
#[derive(Debug, Parser)]
pub(crate) struct ExplainArgs {
    /// Who opens the connection: `NAMESPACE/POD`, `NAMESPACE/POD@ADDRESS` or an address.
    #[arg(long, value_name = "NS/POD|IP")]
    pub(crate) from: End,
    /// Whom it is for.
    #[arg(long, value_name = "NS/POD|IP")]
    pub(crate) to: End,
    /// The destination port: a number, or the name of a port of the destination pod.
    #[arg(long, value_name = "PORT", value_parser = PortChoice::from_argument)]
    pub(crate) port: PortChoice,
    /// The protocol: TCP, UDP or SCTP.
    #[arg(long, default_value = "TCP", value_parser = Transport::from_argument)]
    pub(crate) protocol: Transport,
    /// Files and directories with objects (YAML or JSON), `-` for the standard input.
    #[arg(short, long = "file", value_name = "PATH", num_args = 1..)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// Find what is valid, and probably not what was meant. The checks are listed in docs/lint.md.
#[derive(Debug, Parser)]
pub(crate) struct LintArgs {
    /// Files and directories with objects (YAML or JSON), `-` for the standard input. Checks that compare policies with
    /// pods, namespaces and Services need those too.
    #[arg(short, long = "file", value_name = "PATH", num_args = 1..)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// How the findings are written.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: LintOutput,
    /// From which level on findings make the exit code 1.
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t)]
    pub(crate) deny: DenyLevel,
    /// Leave out the findings with this code or name, such as NP031 or `no-dns`.
    #[arg(long, value_name = "CODE")]
    pub(crate) allow: Vec<String>,
}

/// How findings are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LintOutput {
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
pub(crate) enum DenyLevel {
    /// What is not in force as written.
    #[default]
    Errors,
    /// Also what is probably not meant.
    Warnings,
    /// Also what is worth knowing.
    Infos,
}

/// Judge connections without sending any: the matrix of who reaches whom, or many cases at once.
#[derive(Debug, Parser)]
pub(crate) struct SimulateArgs {
    #[command(flatten)]
    pub(crate) files: Files,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Draw the matrix; so it is anyway without --cases.
    #[arg(long, conflicts_with = "cases")]
    pub(crate) matrix: bool,
    /// Ports to ask about, such as `80`, `53/UDP` or `http`; without it those that the pods declare.
    #[arg(long = "port", value_name = "PORT[/PROTOCOL]", value_delimiter = ',', value_parser = parse_port_arg, conflicts_with = "cases")]
    pub(crate) ports: Vec<PortArg>,
    /// Addresses outside the cluster to ask about too.
    #[arg(long = "address", value_name = "IP", value_delimiter = ',', conflicts_with = "cases")]
    pub(crate) addresses: Vec<IpAddr>,
    /// How the verdicts are written.
    #[arg(short, long, value_enum, default_value_t, conflicts_with = "cases")]
    pub(crate) output: Output,
    /// Read cases from this file, one JSON object a line; `-` is the standard input. Writes one line of verdicts a case.
    ///
    /// A case: {"name": .., "objects": [..], "probes": [{"from": {"namespace", "pod"} or {"ip"}, "to": .., "port": 80 or
    /// "http", "protocol": "TCP"}]}. Consecutive cases with the same "sequence" are one changing cluster.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(crate) cases: Option<PathBuf>,
    /// Who gives the verdicts.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) engine: EngineChoice,
}

/// A port to ask about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortArg {
    pub(crate) port: PortChoice,
    pub(crate) transport: Transport,
}

impl fmt::Display for PortArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.transport)
    }
}

fn parse_port_arg(text: &str) -> Result<PortArg, String> {
    let (port, transport) = match text.split_once('/') {
        None => (text, Transport::Tcp),
        Some((port, transport)) => (port, Transport::from_argument(transport)?),
    };
    Ok(PortArg { port: PortChoice::from_argument(port)?, transport })
}

/// `-f PATH.. [--what-if -f PATH..]`: what comes after `--what-if` changes what comes before.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// The objects that there are.
    pub(crate) before: Vec<PathBuf>,
    /// The objects that are added or replaced; `None` without `--what-if`.
    pub(crate) after: Option<Vec<PathBuf>>,
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
pub(crate) enum EngineChoice {
    /// The reference semantics, straight from the objects.
    Reference,
    /// The compiled maps, in memory.
    #[default]
    Compiled,
}

/// Write a completion script for a shell.
#[derive(Debug, Parser)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: clap_complete::Shell,
}
