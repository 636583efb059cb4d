//! Laws of change: what happens on the way from one state to the next.
//!
//! `NETPOL_CASES` sets how many generated sequences are tried, `NETPOL_SEED` from which seed.

mod compiled;
mod flows;
mod monotone;
mod operations;
mod order;

use netpol_lab::case::Case;
use netpol_lab::{generator, settings};

/// Generated sequences: each a cluster in several states.
fn sequences(n_sequences: usize) -> impl Iterator<Item = Vec<Case>> {
    generator::sequences(settings::seed()).take(settings::n_cases(n_sequences))
}
