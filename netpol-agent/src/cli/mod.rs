//! Commands for people.
//!
//! In: arguments, files, the terminal. Out: text or JSON on `stdout`, problems on `stderr`, an exit code: 0 if all is
//! well, 1 if there are findings, 2 if the input cannot be read or the command cannot do its work.
//! Must not: decide anything; that is the core's.

mod args;
#[cfg(feature = "ebpf")]
mod ask;
#[cfg(feature = "kube")]
mod cluster;
mod cni;
mod explain;
mod input;
#[cfg(feature = "ebpf")]
pub mod kernel;
mod lint;
pub mod matrix;
#[cfg(feature = "ebpf")]
mod run;
mod simulate;
mod terminal;
#[cfg(feature = "ebpf")]
mod uninstall;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Args, Command, CompletionsArgs};
pub use terminal::Terminal;

/// Exit code: something was found that is denied.
const FOUND: u8 = 1;
/// Exit code: the connection is denied.
const DENIED: u8 = 1;
/// Exit code: the input cannot be read, or the command failed.
const FAILED: u8 = 2;

/// There is nothing to judge.
#[cfg(feature = "kube")]
const NO_OBJECTS: &str = "give objects with -f or --cluster";
/// There is nothing to judge.
#[cfg(not(feature = "kube"))]
const NO_OBJECTS: &str = "give objects with -f";

/// Runs the command that the arguments of this program name.
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os(), &mut Terminal::of_this_program()))
}

/// Runs the command that these arguments name, the program's name first. Returns the exit code.
pub fn run<I>(args: I, terminal: &mut Terminal<'_>) -> u8
where
    I: IntoIterator<Item: Into<OsString> + Clone>,
{
    let result = match Args::try_parse_from(args) {
        Ok(Args { command }) => dispatch(command, terminal),
        Err(error) => tell(&error, terminal),
    };
    terminal.finish(result)
}

fn dispatch(command: Command, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    match command {
        #[cfg(feature = "ebpf")]
        Command::Run(args) => run::run(args),
        #[cfg(feature = "ebpf")]
        Command::Status(args) => ask::status(args, terminal),
        #[cfg(feature = "ebpf")]
        Command::Drops(args) => ask::drops(args, terminal),
        #[cfg(feature = "ebpf")]
        Command::Flows(args) => ask::flows(args, terminal),
        Command::Explain(args) => explain::run(args, terminal),
        Command::Lint(args) => lint::run(args, terminal),
        Command::Simulate(args) => simulate::run(args, terminal),
        Command::Cni(args) => cni::run(args, terminal),
        #[cfg(feature = "ebpf")]
        Command::Uninstall(args) => uninstall::run(args, terminal),
        Command::Completions(CompletionsArgs { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "netpol-agent", &mut script);
            terminal.stdout.write_all(&script)?;
            Ok(0)
        }
    }
}

/// Arguments that cannot be read, or a request for help.
fn tell(error: &clap::Error, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let text = error.render();
    if error.use_stderr() {
        let styled = if terminal.is_styled { text.ansi().to_string() } else { text.to_string() };
        drop(write!(terminal.stderr, "{styled}"));
        return Ok(FAILED);
    }
    write!(terminal.stdout, "{text}")?;
    Ok(0)
}
