//! The project's commands: `cargo xtask COMMAND`. Each has a module with its `Options`; this file only dispatches.
//!
//! xtask must build with only Rust and a C compiler, because [`setup`] installs everything else. So no crate of the product may
//! become a dependency of it.
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
mod digest;
mod e2e;
mod fuzz;
mod hostile;
mod image;
#[path = "../../tests/lab/src/options.rs"]
#[expect(unreachable_pub, reason = "public in the crate that it belongs to")]
mod lab_options;
mod lint;
mod privilege;
mod program;
mod release;
mod revision;
mod screenshot;
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
    /// Install missing tools for building and testing (quick when nothing is missing).
    Setup(setup::Options),
    /// Build the agent with its eBPF programs, the CNI plugin, and the command-line tool.
    Build(build::Options),
    /// Show policies in force with real packets between pods on this machine.
    Demo(demo::Options),
    /// Measure netpol and its peers: packets (dp), the agent (cp), pod start (cni), leaks under load (soak).
    Bench(bench::Options),
    /// Build the container image, without a Docker daemon.
    Image(image::Options),
    /// Build everything that is published: images, manifests, chart, plugin, bill of materials.
    Release(release::Options),
    /// Take the picture of `kubectl netpol ui` for README.md.
    Screenshot(screenshot::Options),
    /// Run all tests, or only those with or without root.
    Test(test::Options),
    /// Check formatting, dependencies, clippy for host and kernel, and documentation.
    Lint(lint::Options),
    /// Check the rules of the code base that no standard tool checks.
    Tidy,
    /// Load the eBPF programs and compare their costs with the committed table.
    Verify(verify::Options),
    /// Put load on a node for minutes; fail on leaks and wrong verdicts.
    Soak(soak::Options),
    /// Kill the agent at every system call of a change; fail on leaks, and if the next agent reaches another state.
    Crash(crash::Options),
    /// Attack a node with raw frames and with objects of tenants; fail if anything gets through.
    Hostile(hostile::Options),
    /// Test the agent's API requests against the current cluster, in namespaces of their own.
    E2e(e2e::Options),
    /// Fuzz packets, network configurations, and manifests.
    Fuzz(fuzz::Options),
    /// Run the datapath tests on other kernels, in virtual machines.
    Vm(vm::Options),
    /// Run all checks that a change must pass, cheap ones first.
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
        Command::Hostile(options) => hostile::run(&options),
        Command::E2e(_) => e2e::run(),
        Command::Image(options) => image::run(&options),
        Command::Release(options) => release::run(&options),
        Command::Screenshot(options) => screenshot::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Lint(options) => lint::run(&options),
        Command::Tidy => tidy::run(),
        Command::Verify(options) => verify::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Vm(options) => vm::run(&options),
        Command::Ci(options) => ci::run(&options),
    }
}
