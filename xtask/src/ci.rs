//! `cargo xtask ci`: everything that a change must pass.

use anyhow::Result;

use crate::test;

/// Options of `ci`: there is nothing to choose.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Runs all tests.
///
/// # Errors
/// The first part that fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options {} = options;
    test::run(&test::Options::all())
}
