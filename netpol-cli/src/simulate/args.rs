//! The arguments of `simulate`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, FromArgMatches, ValueEnum};

use netpol_policy::model::Transport;
use netpol_policy::simulate::{Engine, PortChoice};
use netpol_terminal::Output;

use crate::input::ClusterArgs;

/// Evaluate connections without sending packets: draw the matrix of allowed connections, or evaluate cases from a file.
///
/// The exit code is 0, or 2 if the input cannot be read.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("objects").args(["file", "cluster", "cases"]).required(true).multiple(true))]
pub(crate) struct SimulateArgs {
    #[command(flatten)]
    pub(super) files: Files,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
    /// Draw the matrix. This is the default without --cases.
    #[arg(long, conflicts_with = "cases")]
    pub(super) matrix: bool,
    /// Destination ports, such as `80`, `53/UDP` or `http` [default: the ports that the pods declare].
    #[arg(long = "port", value_name = "PORT[/PROTOCOL]", value_delimiter = ',', value_parser = parse_port_arg, conflicts_with = "cases")]
    pub(super) ports: Vec<PortArg>,
    /// Addresses outside the cluster to add to the matrix.
    #[arg(long = "address", value_name = "IP", value_delimiter = ',', conflicts_with = "cases")]
    pub(super) addresses: Vec<IpAddr>,
    /// Output format of the matrix.
    #[arg(short, long, value_enum, default_value_t, conflicts_with = "cases")]
    pub(super) output: Output,
    /// Read cases from this file, one JSON object a line; `-` is the standard input. Writes one line of verdicts for each case.
    ///
    /// A case: {"name": .., "objects": [..], "probes": [{"from": {"namespace", "pod"} or {"ip"}, "to": .., "port": 80 or
    /// "http", "protocol": "TCP"}]}. Consecutive cases with the same "sequence" are successive states of one cluster.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "cluster"])]
    pub(super) cases: Option<PathBuf>,
    /// Implementation that evaluates the connections.
    #[arg(long, value_enum, default_value_t)]
    pub(super) engine: EngineChoice,
}

/// A destination port with its protocol.
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
pub(super) enum EngineChoice {
    /// The reference semantics, evaluated on the objects.
    Reference,
    /// The compiled maps, in memory. Includes the capacities of one pod's maps.
    #[default]
    Compiled,
}

impl EngineChoice {
    /// A new engine.
    pub(super) fn open(self) -> Engine {
        match self {
            Self::Reference => Engine::Reference,
            Self::Compiled => Engine::compiled(),
        }
    }
}
