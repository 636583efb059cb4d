//! `cargo xtask ci`: everything that a change must pass.

use anyhow::Result;

use crate::{lint, test, verify};

/// Options of `ci`: there is nothing to choose.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Checks and runs all tests: from cheap to dear.
///
/// # Errors
/// The first part that fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options {} = options;
    lint::run(&lint::Options::default())?;
    verify::run(&verify::Options::default())?;
    test::run(&test::Options::all())
}
