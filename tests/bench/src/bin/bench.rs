//! `cargo xtask bench`: see [`netpol_bench`].
#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "for a person")]

use std::process::ExitCode;

use clap::Parser;
use netpol_bench::gates::{Reached, row};
use netpol_bench::options::Bench;
use netpol_bench::page::{self, short};
use netpol_bench::{Report, SUITES, Settings};
use netpol_lab::binaries;

/// Measures netpol and its peers in one run.
#[derive(Parser)]
#[command(name = "bench")]
struct Args {
    #[command(flatten)]
    options: Bench,
}

fn main() -> ExitCode {
    let Args { options } = Args::parse();
    let Bench { suite, quick, rounds, anyway, part, seed, programs, output } = options;
    if let Some(folder) = programs {
        binaries::prefer(folder);
    }
    let quickly = if quick { " --quick" } else { "" };
    let rounds_given = rounds.map_or_else(String::new, |n_rounds| format!(" --rounds {n_rounds}"));
    let command = format!("cargo xtask bench {suite}{quickly}{rounds_given}");
    let is_part = part.is_some();
    let output = output.filter(|_| !is_part);
    let settings =
        Settings { is_quick: quick, n_rounds: rounds, is_load_ignored: anyway, output, part, seed };
    match netpol_bench::run(&suite, settings, &command) {
        Ok(report) => {
            if is_part {
                println!("{}", page::text(std::slice::from_ref(&report)).unwrap_or_default());
            }
            show(&report);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let names: Vec<_> = SUITES.iter().map(|(name, _)| *name).collect();
            eprintln!("bench ({}): {error:#}", names.join(", "));
            ExitCode::FAILURE
        }
    }
}

fn show(report: &Report) {
    for answer in &report.answers {
        let Ok(row) = row(&answer.row) else { continue };
        let holds = match row.reached(&answer.measured) {
            Reached::Stretch => "stretch",
            Reached::Gate => "holds",
            Reached::No => "DOES NOT HOLD",
        };
        println!(
            "{:>4} {:<75} {:>8} {:<4} [{} – {}] {holds} (gate {}) {}",
            answer.row,
            row.what,
            short(answer.measured.value),
            row.unit.as_str(),
            short(answer.measured.low),
            short(answer.measured.high),
            short(row.gate),
            answer.note,
        );
    }
}
