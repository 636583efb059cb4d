//! `cargo xtask ci`: all checks that a change must pass.

use anyhow::Result;

use crate::{lint, test, verify};

/// Options of `ci`: none.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Runs all checks and tests, the cheap ones first.
///
/// # Errors
/// The first part that fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options {} = options;
    lint::run(&lint::Options::default())?;
    verify::run(&verify::Options::default())?;
    test::run(&test::Options::all())
}
