//! Laws of changes from one state to the next.
//!
//! `NETPOL_CASES` sets the number of generated sequences, `NETPOL_SEED` the seed.
#![forbid(unsafe_code)]

mod audited;
mod compiled;
mod flows;
mod monotone;
mod operations;
mod order;

use anyhow::Result;
use fastrand::Rng;
use netpol_lab::case::Case;
use netpol_lab::{generator, law, settings};

/// Checks a law of generated sequences, each a cluster in several states: so many with network policies only, and as many with
/// policies of all tiers.
fn check(n_sequences: usize, law: impl Fn(&[Case], &mut Rng) -> Result<()>) -> Result<()> {
    check_network_policies(n_sequences, &law)?;
    law::check(settings::n_cases(n_sequences), generator::sequences_with_tiers(), law)
}

/// The same for a law that holds only without cluster policies.
fn check_network_policies(
    n_sequences: usize,
    law: impl Fn(&[Case], &mut Rng) -> Result<()>,
) -> Result<()> {
    law::check(settings::n_cases(n_sequences), generator::sequences(), law)
}
