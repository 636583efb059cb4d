//! `cargo xtask soak`: see [`netpol_lab::soak`].
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its report is its output")]

use std::process::ExitCode;

use clap::Parser;
use netpol_lab::soak::{self, Options};

/// Pods come and go all over a cluster while a full node enforces: nothing may leak, no verdict be wrong. Needs root.
#[derive(Parser)]
#[command(name = "soak")]
struct Args {
    /// How long the pods come and go, after a warm-up of a fifth of that.
    #[arg(long, default_value_t = 180)]
    seconds: u64,
    /// Pods that are created a second; as many are deleted.
    #[arg(long, default_value_t = 100)]
    pods_per_second: u32,
    /// Endpoints on the node that stay.
    #[arg(long, default_value_t = 200)]
    endpoints: u32,
    /// Seconds for which the API server is away after that.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    outage: u64,
}

fn main() -> ExitCode {
    let Args { seconds, pods_per_second, endpoints: n_endpoints, outage: outage_seconds } =
        Args::parse();
    match soak::run(&Options { seconds, pods_per_second, n_endpoints, outage_seconds }) {
        Ok(report) => {
            print!("{}", report.text());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}
