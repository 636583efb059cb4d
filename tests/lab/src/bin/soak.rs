//! `cargo xtask soak`: see [`netpol_lab::soak`].
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its report is its output")]

use std::process::ExitCode;

use clap::Parser;
use netpol_lab::soak::{self, Options};

/// Pods come and go all over a cluster while a full node enforces: nothing may leak, no verdict be wrong. Needs root.
#[derive(Parser)]
#[command(name = "soak")]
struct Args {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let Args { options } = Args::parse();
    match soak::run(&options) {
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
