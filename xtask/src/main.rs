//! The project's commands: `cargo xtask COMMAND`. Each has a module with its `Options`; this file only dispatches.
//!
//! xtask builds on a machine with nothing but Rust and a C compiler: everything else is what
//! [`setup`] installs, so no crate of the product may become a dependency of this one.
#![forbid(unsafe_code)]

use anyhow::Result;
use clap::{Parser, Subcommand};

mod build;
mod ci;
mod privilege;
mod setup;
mod shell;
mod term;
mod test;
mod workspace;

/// Sets up, builds and tests netpol.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what this machine lacks for building and testing (quick when nothing is missing).
    Setup(setup::Options),
    /// Build the agent, with its eBPF programs, and the CNI plugin.
    Build(build::Options),
    /// Run the tests: all of them, or those that need no root, or those that do.
    Test(test::Options),
    /// Everything that a change must pass, from cheap to dear.
    Ci(ci::Options),
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Setup(options) => setup::run(&options),
        Command::Build(options) => build::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Ci(options) => ci::run(&options),
    }
}
