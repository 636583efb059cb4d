//! `cargo xtask demo`: pods on this machine, the policies of `deploy/examples`, real packets.

use anyhow::Result;

pub(crate) use crate::lab_options::Demo as Options;
use crate::{build, program, setup, term};

/// Sets up, builds, and executes the demo in place of this process, so that it gets the terminal and Ctrl-C.
///
/// # Errors
/// The set-up or the build failed, there is no way to become root, or the demo could not be started.
pub(crate) fn run() -> Result<()> {
    setup::ensure(setup::Purpose::Running)?;
    term::heading("build");
    build::demo()?;
    program::become_it(&mut program::as_root("debug", "demo")?)
}
