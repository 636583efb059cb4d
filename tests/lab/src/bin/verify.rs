//! `cargo xtask verify`: see [`netpol_lab::verified`].
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a table for people")]

use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use netpol_lab::options::Verify;
use netpol_lab::verified::{Comparison, committed, file, measure};

/// Loads the programs, prints their costs, and compares them with the committed table. Needs root.
#[derive(Parser)]
#[command(name = "verify")]
struct Args {
    #[command(flatten)]
    options: Verify,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_excesses) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("verify: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<usize> {
    let Args { options: Verify { update } } = args;
    let measured = measure()?;
    print!("{}", measured.to_text());
    if *update {
        let file = file();
        let mut tables = committed()?;
        tables.set(measured);
        fs::write(&file, tables.to_text())
            .with_context(|| format!("writing {}", file.display()))?;
        return Ok(0);
    }
    let Comparison { excesses, notes } = measured.compare(&committed()?);
    for note in notes {
        println!("note: {note}");
    }
    for excess in &excesses {
        println!("dearer: {excess}");
    }
    if !excesses.is_empty() {
        println!("if that is intended: cargo xtask verify --update");
    }
    Ok(excesses.len())
}
