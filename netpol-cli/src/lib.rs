//! `kubectl-netpol`: what policies mean, asked without a node.
//!
//! In: arguments, files, the objects of a cluster. Out: text or JSON on `stdout`, problems on `stderr`, an exit code: 0 if
//! all is well, 1 if there are findings, 2 if the input cannot be read or the command cannot do its work.
//! Must not: decide anything; that is `netpol-policy`'s. Must not need root, or load programs.
#![forbid(unsafe_code)]

mod args;
mod cluster;
mod explain;
mod input;
mod lint;
pub mod matrix;
mod reachability;
mod simulate;

use std::ffi::OsString;

use clap::{CommandFactory as _, Parser as _};
use netpol_terminal::Terminal;

use args::{Args, Command, CompletionsArgs};

/// The program's name in messages. kubectl finds it as `kubectl-netpol`.
pub const PROGRAM: &str = "netpol";

/// Runs the command that these arguments name, the program's name first. Returns the exit code.
pub fn run<I>(args: I, terminal: &mut Terminal<'_>) -> u8
where
    I: IntoIterator<Item: Into<OsString> + Clone>,
{
    let result = match Args::try_parse_from(args) {
        Ok(Args { command }) => dispatch(command, terminal),
        Err(error) => terminal.show_usage(&error),
    };
    terminal.finish(result)
}

fn dispatch(command: Command, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    match command {
        Command::Explain(args) => explain::run(args, terminal),
        Command::Lint(args) => lint::run(args, terminal),
        Command::Simulate(args) => simulate::run(args, terminal),
        Command::Completions(CompletionsArgs { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), PROGRAM, &mut script);
            terminal.stdout.write_all(&script)?;
            Ok(0)
        }
    }
}
