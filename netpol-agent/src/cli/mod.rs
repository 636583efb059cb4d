//! The command line.
//!
//! In: arguments, files, the terminal. Out: text or JSON on `stdout`, errors on `stderr`, and an exit code: 0 for success, 1
//! if `explain` finds that the connection is denied, 2 if the command failed.
//! Must not: decide anything about policies; that is the task of `netpol-policy`.

mod args;
mod ask;
mod cni;
mod drops;
mod observe;
mod policy;
mod run;
mod simulate;
mod uninstall;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use netpol_terminal::Terminal;

use crate::denial;
use args::{Args, Command, CompletionsArgs};

/// The program's name in messages.
pub const PROGRAM: &str = "netpol-agent";

/// Runs the command of this program's arguments.
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os(), &mut Terminal::of_this_program(PROGRAM)))
}

/// Runs the command of these arguments, which begin with the program's name. Returns the exit code.
pub fn run<I>(args: I, terminal: &mut Terminal<'_>) -> u8
where
    I: IntoIterator<Item: Into<OsString> + Clone>,
{
    let result = match Args::try_parse_from(args) {
        Ok(Args { command }) => dispatch(command, terminal),
        Err(error) => terminal.show_usage(&error),
    };
    terminal.finish(result.map_err(denial::explain))
}

fn dispatch(command: Command, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Status(args) => ask::status(args, terminal),
        Command::Drops(args) => drops::run(args, terminal),
        Command::Flows(args) => ask::flows(args, terminal),
        Command::Rules(args) => ask::rules(args, terminal),
        Command::Policy(args) => policy::run(args, terminal),
        Command::Explain(args) => ask::explain(args, terminal),
        Command::Simulate(args) => simulate::run(args, terminal),
        Command::Cni(args) => cni::run(args, terminal),
        Command::Uninstall(args) => uninstall::run(args, terminal),
        Command::Observe(args) => observe::run(args),
        Command::Completions(CompletionsArgs { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), PROGRAM, &mut script);
            terminal.stdout.write_all(&script)?;
            Ok(0)
        }
    }
}
