//! `kubectl-netpol`, also installed as `netpol`: commands for policies in files, and for a live cluster.
//!
//! In: arguments, files, the objects of a cluster. Out: text or JSON on `stdout`, problems on `stderr`, and an exit code: 0 for
//! success, 1 for findings or a denied connection, 2 if the input cannot be read or the command fails.
//! Must not: evaluate policies, which is the part of `netpol-policy`; need root, or load programs.
//!
//! Each command is a module with its arguments and a function `run`. A new one is added to `Command` and `dispatch`.
#![forbid(unsafe_code)]

mod cluster;
mod completions;
mod diff;
mod expectations;
mod explain;
mod flannel;
mod input;
mod learn;
mod lint;
mod live;
mod man;
mod progress;
mod simulate;
mod ui;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use netpol_terminal::{Colour, Terminal};

/// The program's name in messages.
pub const PROGRAM: &str = "netpol";

/// File name of the program as a kubectl plugin: kubectl runs it for `kubectl netpol`.
const PLUGIN: &str = "kubectl-netpol";

/// Explain, check and simulate Kubernetes NetworkPolicies, from files or from a live cluster.
// Help is not wrapped: otherwise its lines would depend on a feature of clap that another crate of a build enables.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version = netpol_proto::build::version(), term_width = 0)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// When to write colours.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, global = true)]
    color: Colour,
}

#[derive(Debug, Subcommand)]
enum Command {
    Explain(explain::ExplainArgs),
    Learn(learn::LearnArgs),
    Lint(lint::LintArgs),
    Flannel(flannel::FlannelArgs),
    Simulate(simulate::SimulateArgs),
    Diff(diff::DiffArgs),
    Test(expectations::TestArgs),
    Status(live::StatusArgs),
    Drops(live::DropsArgs),
    Flows(live::FlowsArgs),
    Policy(live::PolicyArgs),
    Wait(live::WaitArgs),
    Ui(ui::UiArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// Runs the command that these arguments name. The first argument is the path of the program. Returns the exit code.
pub fn run<I>(args: I, terminal: &mut Terminal<'_>) -> u8
where
    I: IntoIterator<Item: Into<OsString> + Clone>,
{
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let name = Name::of(args.first().map(OsString::as_os_str));
    let parsed = name
        .command()
        .try_get_matches_from(args)
        .and_then(|matches| Args::from_arg_matches(&matches));
    let result = match parsed {
        Ok(Args { command, color }) => {
            terminal.choose_colour(color);
            dispatch(command, name, terminal)
        }
        Err(error) => terminal.show_usage(&error),
    };
    terminal.finish(result)
}

fn dispatch(command: Command, name: Name, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    match command {
        Command::Explain(args) => explain::run(args, terminal),
        Command::Flannel(args) => flannel::run(args, terminal),
        Command::Learn(args) => learn::run(args, terminal),
        Command::Lint(args) => lint::run(args, terminal),
        Command::Simulate(args) => simulate::run(args, terminal),
        Command::Diff(args) => diff::run(args, terminal),
        Command::Test(args) => expectations::run(args, terminal),
        Command::Status(args) => live::status(&args, terminal),
        Command::Drops(args) => live::drops(&args, terminal),
        Command::Flows(args) => live::flows(&args, terminal),
        Command::Policy(args) => live::policy(&args, terminal),
        Command::Wait(args) => live::wait(&args, terminal),
        Command::Ui(args) => ui::run(args, terminal),
        Command::Man(args) => man::run(args, name.command(), terminal),
        Command::Completions(args) => {
            completions::run(&args, &mut name.command(), name.file(), terminal)
        }
    }
}

/// The name under which the program was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// `netpol`, or any other file name.
    Standalone,
    /// `kubectl netpol`.
    Plugin,
}

impl Name {
    /// The name for this path of the program.
    fn of(path: Option<&OsStr>) -> Self {
        let file = path.map(Path::new).and_then(Path::file_name);
        if file == Some(OsStr::new(PLUGIN)) { Self::Plugin } else { Self::Standalone }
    }

    /// The parser, with usage lines that begin with the words that the user types.
    fn command(self) -> clap::Command {
        let typed = match self {
            Self::Standalone => PROGRAM,
            Self::Plugin => "kubectl netpol",
        };
        Args::command().bin_name(typed)
    }

    /// The file name that a shell completes.
    const fn file(self) -> &'static str {
        match self {
            Self::Standalone => PROGRAM,
            Self::Plugin => PLUGIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_declared_without_contradictions() {
        Name::Standalone.command().debug_assert();
    }

    #[test]
    fn only_the_plugin_file_name_means_kubectl() {
        for (path, expected) in [
            ("kubectl-netpol", Name::Plugin),
            ("/usr/local/bin/kubectl-netpol", Name::Plugin),
            ("netpol", Name::Standalone),
            ("/kubectl-netpol/netpol", Name::Standalone),
        ] {
            assert_eq!(Name::of(Some(OsStr::new(path))), expected, "{path}");
        }
        assert_eq!(Name::of(None), Name::Standalone);
    }
}
