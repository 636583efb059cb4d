//! `cargo xtask soak`: see [`netpol_lab::soak`].
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its report is its output")]

use std::process::ExitCode;

use clap::Parser;
use netpol_lab::soak::{self, Options};

/// Creates and deletes pods while a full node enforces policies: fails on leaks and wrong verdicts. Needs root.
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
