//! `cargo xtask screenshot`: the picture of `kubectl netpol ui` in README.md, `docs/images/ui.png`.

use anyhow::Result;

use crate::{program, setup, shell, term};

/// Options of `screenshot`: none.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Sets up, builds, and takes the picture.
///
/// # Errors
/// The set-up or the build failed, or the page does not show what the picture should.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options {} = options;
    setup::ensure(setup::Purpose::Building)?;
    setup::for_pages()?;
    term::heading("build");
    let mut build = shell::cargo(["build"]);
    for (package, name) in [("netpol-cli", "kubectl-netpol"), ("netpol-lab", "screenshot")] {
        build.args(["-p", package, "--bin", name]);
    }
    shell::step("building the page and what photographs it", &mut build)?;
    shell::run(&mut shell::command(program::path("debug", "screenshot")?))?;
    term::good("docs/images/ui.png is new: look at it, and commit it");
    Ok(())
}
