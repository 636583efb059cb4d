//! `cargo run -p netpol-lab --bin cases -- --seed 1 --n 1000 [--tiers] [--features]`: generated cases, one JSON line each, or
//! a census of the API features that they exercise. With `--tiers` their clusters have `ClusterNetworkPolicies` too.
#![forbid(unsafe_code)]

use std::io::{self, Write as _};

use anyhow::{Context as _, Result, bail};
use netpol_lab::case::Case;
use netpol_lab::generator::{self, features::Census};

fn main() -> Result<()> {
    match run() {
        // `cases | head` closes the pipe early: that is no error.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        outcome => outcome,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        io.or_else(|| {
            cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind)
        })
    };
    error.chain().any(|cause| kind(cause) == Some(io::ErrorKind::BrokenPipe))
}

fn run() -> Result<()> {
    let (mut seed, mut n_cases, mut shows_features) = (1, 1000, false);
    let mut has_tiers = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || -> Result<u64> {
            let value = args.next().with_context(|| format!("{arg} needs a number"))?;
            value.parse().with_context(|| format!("{arg} needs a number, not {value}"))
        };
        match arg.as_str() {
            "--seed" => seed = number()?,
            "--n" => n_cases = number()?,
            "--features" => shows_features = true,
            "--tiers" => has_tiers = true,
            _ => bail!("usage: cases [--seed N] [--n N] [--tiers] [--features]"),
        }
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut census = Census::default();
    let cases: Box<dyn Iterator<Item = Case>> = if has_tiers {
        Box::new(generator::cases_with_tiers(seed))
    } else {
        Box::new(generator::cases(seed))
    };
    for case in cases.take(usize::try_from(n_cases)?) {
        if shows_features {
            census.add(&case);
        } else {
            serde_json::to_writer(&mut out, &case)?;
            writeln!(out)?;
        }
    }
    if shows_features {
        write!(out, "{}", census.table())?;
    }
    Ok(out.flush()?)
}
