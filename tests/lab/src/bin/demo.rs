//! `cargo xtask demo`: see [`netpol_lab::demo`].
#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "errors go to the terminal")]

use std::process::ExitCode;

use clap::Parser;
use netpol_lab::demo::{self, Ending};
use netpol_lab::options::Demo;

/// Shows NetworkPolicies in force, on this machine, with real packets. Needs root.
#[derive(Parser)]
#[command(name = "demo")]
struct Args {
    #[command(flatten)]
    options: Demo,
}

fn main() -> ExitCode {
    let Args { options: Demo { keep, remove } } = Args::parse();
    let ending = if keep { Ending::Keep } else { Ending::Remove };
    let outcome = if remove { demo::remove().map(|()| 0) } else { demo::run(ending) };
    match outcome {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_faults) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::from(2)
        }
    }
}
