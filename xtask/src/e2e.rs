//! `cargo xtask e2e`: the agent's API requests against the current cluster.

use anyhow::Result;

pub(crate) use crate::lab_options::E2e as Options;
use crate::{build, program, setup, shell, term};

/// Sets up, builds, and executes the program that runs the tests and cleans up after them.
///
/// # Errors
/// The set-up or the build failed, or the program could not be started.
pub(crate) fn run() -> Result<()> {
    setup::ensure(setup::Purpose::Testing)?;
    term::heading("build");
    build::programs()?;
    program::become_it(&mut shell::command(program::path("debug", "e2e")?))
}
