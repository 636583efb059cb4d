//! The project's commands: `cargo xtask COMMAND`. Each has a module with its `Options`; this file only dispatches.
//!
//! xtask builds on a machine with nothing but Rust and a C compiler: everything else is what
//! [`setup`] installs, so no crate of the product may become a dependency of this one.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
#[path = "../../tests/bench/src/options.rs"]
#[expect(unreachable_pub, reason = "public in the crate that it belongs to")]
mod bench_options;
mod build;
mod ci;
mod crash;
mod demo;
mod e2e;
mod fuzz;
mod image;
#[path = "../../tests/lab/src/options.rs"]
#[expect(unreachable_pub, reason = "public in the crate that it belongs to")]
mod lab_options;
mod lint;
mod privilege;
mod program;
mod setup;
mod shell;
mod soak;
mod term;
mod test;
mod tidy;
mod verify;
mod vm;
mod words;
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
    /// Show policies in force, with real packets between pods on this machine.
    Demo(demo::Options),
    /// Measure beside the peers: packets (dp), the agent (cp), starting pods (cni), what a load leaves (soak).
    Bench(bench::Options),
    /// Build a container image of the agent and the CNI plugin, without a Docker daemon.
    Image(image::Options),
    /// Run the tests: all of them, or those that need no root, or those that do.
    Test(test::Options),
    /// Formatting, clippy for the host and the kernel, documentation.
    Lint(lint::Options),
    /// Check the rules of the code base that no compiler knows.
    Tidy(tidy::Options),
    /// Load the eBPF programs and compare what they cost with the committed table.
    Verify(verify::Options),
    /// Put load on a node for minutes: nothing may leak, and no verdict be wrong.
    Soak(soak::Options),
    /// Kill the agent at every point of what it does: nothing may leak, and the next one must come to the same state.
    Crash(crash::Options),
    /// Ask of the current cluster's API server what the agent asks, in namespaces of its own.
    E2e(e2e::Options),
    /// Look for packets, network configurations and manifests for which a check fails.
    Fuzz(fuzz::Options),
    /// Run the tests of the kernel side on other kernels, each in a virtual machine.
    Vm(vm::Options),
    /// Everything that a change must pass, from cheap to dear.
    Ci(ci::Options),
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            term::failure(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Setup(options) => setup::run(&options),
        Command::Build(options) => build::run(&options),
        Command::Demo(_) => demo::run(),
        Command::Bench(options) => bench::run(&options),
        Command::Soak(_) => soak::run(),
        Command::Crash(options) => crash::run(&options),
        Command::E2e(_) => e2e::run(),
        Command::Image(options) => image::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Lint(options) => lint::run(&options),
        Command::Tidy(options) => tidy::run(&options),
        Command::Verify(options) => verify::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Vm(options) => vm::run(&options),
        Command::Ci(options) => ci::run(&options),
    }
}
