//! `cargo xtask soak`: load for minutes, with every verdict checked.

use anyhow::Result;

pub(crate) use crate::lab_options::Soak as Options;
use crate::{build, program, setup, term};

/// Sets up, builds, and executes the soak.
///
/// # Errors
/// The set-up or the build failed, there is no way to become root, or the soak could not be started.
pub(crate) fn run() -> Result<()> {
    setup::ensure(setup::Purpose::Running)?;
    term::heading("build");
    build::programs()?;
    program::become_it(&mut program::as_root("debug", "soak")?)
}
