//! The arguments of `simulate`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, FromArgMatches, ValueEnum};

use netpol_policy::model::{Selector, Transport};
use netpol_policy::simulate::{Engine, PortChoice};

use super::changes::Totals;
use super::selector;
use crate::input::{ClusterArgs, PodNetworkArgs};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  netpol simulate -f rendered/
  netpol simulate -f rendered/ -n shop --port 6379 -o html
  netpol simulate --cluster --what-if -f changed.yaml --fail-on opens";

/// Evaluate connections without sending packets: draw the matrix of allowed connections, or evaluate cases from a file.
///
/// Workloads are pods. Pods that are alike share a row. With --what-if, only the connections that change are shown, on every port,
/// unless --matrix or --port is given. The exit code is 0, 1 if --fail-on is met, or 2 if the input cannot be read
/// completely.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group = ArgGroup::new("objects").args(["file", "cluster", "cases"]).required(true).multiple(true))]
pub(crate) struct SimulateArgs {
    #[command(flatten)]
    pub(super) files: Files,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
    /// Draw the matrix. This is the default without --cases and --what-if. With --what-if, draw it with what changes in it.
    #[arg(long)]
    pub(super) matrix: bool,
    #[command(flatten)]
    pub(super) choice: MatrixArgs,
    /// With --what-if: exit with 1 if the changes have this effect.
    #[arg(long, value_name = "EFFECT", value_enum, requires = "what-if")]
    pub(super) fail_on: Option<FailOn>,
    /// Read cases from this file, one JSON object a line; `-` is the standard input. Writes one line of verdicts for each case.
    ///
    /// A case: {"name": .., "objects": [..], "probes": [{"from": {"namespace", "pod"} or {"ip"}, "to": .., "port": 80 or
    /// "http", "protocol": "TCP"}]}. Consecutive cases with the same "sequence" are successive states of one cluster.
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "file", "cluster", "matrix", "ports", "addresses", "namespaces", "selector", "output",
    ])]
    pub(super) cases: Option<PathBuf>,
}

/// The part of a cluster that is evaluated, and the form of the output.
#[derive(Debug, clap::Args)]
pub(crate) struct MatrixArgs {
    /// Destination ports, such as `80`, `53/UDP` or `http` [default: the ports that each pod declares; for changes, every port].
    #[arg(long = "port", value_name = "PORT[/PROTOCOL]", value_delimiter = ',', value_parser = parse_port_arg)]
    pub(crate) ports: Vec<PortArg>,
    /// Addresses outside the cluster to add to the matrix.
    #[arg(long = "address", value_name = "IP", value_delimiter = ',')]
    pub(crate) addresses: Vec<IpAddr>,
    /// Only the pods of these namespaces.
    #[arg(short, long = "namespace", value_name = "NAMESPACE", value_delimiter = ',')]
    pub(crate) namespaces: Vec<String>,
    /// Only the pods with these labels, as for kubectl: `app=web,tier!=db`.
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = selector::parse)]
    pub(crate) selector: Option<Selector>,
    #[command(flatten)]
    pub(crate) pod_networks: PodNetworkArgs,
    /// Output format of the matrix.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: MatrixOutput,
    /// Implementation that evaluates the connections.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) engine: EngineChoice,
}

/// The output format of a matrix, and of the changes in one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum MatrixOutput {
    /// A table for each port; a list if the table would be too wide.
    #[default]
    Text,
    /// A JSON array with an object for each connection.
    Json,
    /// A line for each connection.
    Csv,
    /// Tables in Markdown.
    Md,
    /// A graph of the allowed connections for Graphviz.
    Dot,
    /// A graph of the allowed connections for Mermaid.
    Mermaid,
    /// A page for a browser, as one file that loads nothing: sorts, filters, and shows the rules behind each verdict.
    Html,
}

/// The effect of changes that makes the exit code 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailOn {
    /// A connection is allowed that was denied.
    Opens,
    /// A connection is denied that was allowed.
    Closes,
    /// Either.
    #[value(alias = "changes")]
    Any,
}

impl FailOn {
    /// Whether the changes have the effect.
    pub(super) const fn is_met(self, totals: Totals) -> bool {
        match self {
            Self::Opens => totals.n_opened > 0,
            Self::Closes => totals.n_closed > 0,
            Self::Any => totals.n_opened + totals.n_closed > 0,
        }
    }
}

/// A destination port with its protocol.
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

/// `-f PATH.. [--what-if -f PATH..]`: the files after `--what-if` are changes to the objects of the files before it.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// The files before `--what-if`.
    pub(super) before: Vec<PathBuf>,
    /// The files after `--what-if`, whose objects are added or replaced; `None` without `--what-if`.
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
            .help("Files and directories with objects (YAML or JSON); `-` is the standard input");
        let what_if = Arg::new("what-if")
            .long("what-if")
            .action(ArgAction::SetTrue)
            .requires("file")
            .help("Show the connections that would change if the files after this option were applied: --what-if -f NEW");
        command.arg(file).arg(what_if)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Files {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let paths = matches.get_many::<PathBuf>("file").into_iter().flatten().cloned();
        let indices = matches.indices_of("file").into_iter().flatten();
        let what_if = matches.get_flag("what-if").then(|| matches.index_of("what-if")).flatten();
        let (after, before): (Vec<_>, Vec<_>) =
            paths.zip(indices).partition(|(_, index)| what_if.is_some_and(|begin| *index > begin));
        let paths =
            |files: Vec<(PathBuf, usize)>| files.into_iter().map(|(path, _)| path).collect();
        Ok(Self { before: paths(before), after: what_if.map(|_| paths(after)) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The implementation that evaluates connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineChoice {
    /// The reference semantics, evaluated on the objects.
    Reference,
    /// The compiled maps, in memory. Includes the capacities of one pod's maps.
    #[default]
    Compiled,
}

impl EngineChoice {
    /// Makes a new engine.
    pub(super) fn open(self) -> fn() -> Engine {
        match self {
            Self::Reference => || Engine::Reference,
            Self::Compiled => Engine::compiled,
        }
    }
}
