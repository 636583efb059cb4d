//! Laws of changes from one state to the next.
//!
//! `NETPOL_CASES` sets the number of generated sequences, `NETPOL_SEED` the seed.
#![forbid(unsafe_code)]

mod compiled;
mod flows;
mod monotone;
mod operations;
mod order;

use anyhow::Result;
use fastrand::Rng;
use netpol_lab::case::Case;
use netpol_lab::{generator, law, settings};

/// Checks a law of generated sequences, each a cluster in several states.
fn check(n_sequences: usize, law: impl Fn(&[Case], &mut Rng) -> Result<()>) -> Result<()> {
    law::check(settings::n_cases(n_sequences), generator::sequences(), law)
}
