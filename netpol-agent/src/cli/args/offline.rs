//! The arguments of commands that judge objects: `explain`, `lint`, `simulate`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, FromArgMatches, Parser, ValueEnum};

use super::{AgentArgs, Output};
use crate::model::{PortName, Transport};
use crate::simulate::{End, PortChoice};

/// Whether the objects of a live cluster count.
#[cfg(feature = "kube")]
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ClusterArgs {
    /// Take the objects of the cluster that kubectl would reach; those in files come on top.
    #[arg(long)]
    pub(in crate::cli) cluster: bool,
    /// How to reach the cluster; without it as kubectl does.
    #[arg(long, value_name = "FILE", requires = "cluster")]
    pub(in crate::cli) kubeconfig: Option<PathBuf>,
}

/// Whether the objects of a live cluster count: this build cannot list them.
#[cfg(not(feature = "kube"))]
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ClusterArgs {}

impl ClusterArgs {
    /// Whether objects are taken from a cluster.
    #[cfg(feature = "kube")]
    pub(in crate::cli) const fn is_asked(&self) -> bool {
        self.cluster
    }

    /// Whether objects are taken from a cluster.
    #[cfg(not(feature = "kube"))]
    pub(in crate::cli) const fn is_asked(&self) -> bool {
        let Self {} = self;
        false
    }
}

/// Tell why a connection is allowed or denied: which policies isolate, which rules allow, and which almost do.
///
/// Asks the agent on this node; with -f or --cluster it is about the objects there. The exit code is 0 if the connection is allowed and 1
/// if it is denied.
#[derive(Debug, Parser)]
pub(in crate::cli) struct ExplainArgs {
    /// Who opens the connection: `NAMESPACE/POD`, `NAMESPACE/POD@ADDRESS` or an address.
    #[arg(long, value_name = "NS/POD|IP")]
    pub(in crate::cli) from: End,
    /// Whom it is for.
    #[arg(long, value_name = "NS/POD|IP")]
    pub(in crate::cli) to: End,
    /// The destination port: a number, or the name of a port of the destination pod.
    #[arg(long, value_name = "PORT", value_parser = parse_port)]
    pub(in crate::cli) port: PortChoice,
    /// The protocol: TCP, UDP or SCTP.
    #[arg(long, default_value = "TCP", value_parser = parse_transport)]
    pub(in crate::cli) protocol: Transport,
    /// Files and directories with objects (YAML or JSON), `-` for the standard input.
    #[arg(short, long = "file", value_name = "PATH", num_args = 1..)]
    pub(in crate::cli) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) cluster: ClusterArgs,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub(in crate::cli) output: Output,
    #[command(flatten)]
    pub(in crate::cli) agent: AgentArgs,
}

/// Find what is valid, and probably not what was meant. The checks are listed in docs/lint.md.
#[derive(Debug, Parser)]
pub(in crate::cli) struct LintArgs {
    /// Files and directories with objects (YAML or JSON), `-` for the standard input. Checks that compare policies with
    /// pods, namespaces and Services need those too.
    #[arg(short, long = "file", value_name = "PATH", num_args = 1..)]
    pub(in crate::cli) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) cluster: ClusterArgs,
    /// How the findings are written.
    #[arg(short, long, value_enum, default_value_t)]
    pub(in crate::cli) output: LintOutput,
    /// From which level on findings make the exit code 1.
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t)]
    pub(in crate::cli) deny: DenyLevel,
    /// Leave out the findings with this code or name, such as NP031 or `no-dns`.
    #[arg(long, value_name = "CODE")]
    pub(in crate::cli) allow: Vec<String>,
}

/// How findings are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum LintOutput {
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
pub(in crate::cli) enum DenyLevel {
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
pub(in crate::cli) struct SimulateArgs {
    #[command(flatten)]
    pub(in crate::cli) files: Files,
    #[command(flatten)]
    pub(in crate::cli) cluster: ClusterArgs,
    /// Draw the matrix; so it is anyway without --cases.
    #[arg(long, conflicts_with = "cases")]
    pub(in crate::cli) matrix: bool,
    /// Ports to ask about, such as `80`, `53/UDP` or `http`; without it those that the pods declare.
    #[arg(long = "port", value_name = "PORT[/PROTOCOL]", value_delimiter = ',', value_parser = parse_port_arg, conflicts_with = "cases")]
    pub(in crate::cli) ports: Vec<PortArg>,
    /// Addresses outside the cluster to ask about too.
    #[arg(long = "address", value_name = "IP", value_delimiter = ',', conflicts_with = "cases")]
    pub(in crate::cli) addresses: Vec<IpAddr>,
    /// How the verdicts are written.
    #[arg(short, long, value_enum, default_value_t, conflicts_with = "cases")]
    pub(in crate::cli) output: Output,
    /// Read cases from this file, one JSON object a line; `-` is the standard input. Writes one line of verdicts a case.
    ///
    /// A case: {"name": .., "objects": [..], "probes": [{"from": {"namespace", "pod"} or {"ip"}, "to": .., "port": 80 or
    /// "http", "protocol": "TCP"}]}. Consecutive cases with the same "sequence" are one changing cluster.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(in crate::cli) cases: Option<PathBuf>,
    /// Who gives the verdicts.
    #[arg(long, value_enum, default_value_t)]
    pub(in crate::cli) engine: EngineChoice,
}

/// A port to ask about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct PortArg {
    pub(in crate::cli) port: PortChoice,
    pub(in crate::cli) transport: Transport,
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
pub(in crate::cli) struct Files {
    /// The objects that there are.
    pub(in crate::cli) before: Vec<PathBuf>,
    /// The objects that are added or replaced; `None` without `--what-if`.
    pub(in crate::cli) after: Option<Vec<PathBuf>>,
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
pub(in crate::cli) enum EngineChoice {
    /// The reference semantics, straight from the objects.
    Reference,
    /// The compiled maps, in memory.
    #[default]
    Compiled,
    /// The compiled maps and the real programs, in the kernel (needs root).
    #[cfg(feature = "ebpf")]
    Kernel,
}
