//! `cargo xtask crash`: the agent is killed at every point of a change, not only at some as in `cargo xtask test`.

use anyhow::{Result, bail};

use crate::{build, privilege::Privilege, setup, shell, term};

/// Options of `crash`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Points of each test; as many as there are, if nothing is said.
    #[arg(long, default_value_t = usize::MAX)]
    points: usize,
    /// Which other points a number smaller than all means.
    #[arg(long, default_value_t = 1)]
    seed: usize,
    /// Only the tests whose names hold this: changes, versions, calls, removal.
    test: Option<String>,
}

/// Sets up, builds and runs the tests of crashes.
///
/// # Errors
/// The set-up or the build failed, a test failed, or this user is not root.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { points, seed, test } = options;
    setup::run(&setup::Options::default())?;
    term::heading("build");
    build::programs()?;
    if Privilege::detect() != Privilege::Root {
        bail!(
            "the tests of crashes make network namespaces and trace root's processes: run this as root"
        );
    }
    // By itself and not under nextest, whose limits are for tests of minutes.
    let mut tests = shell::cargo(["test", "-p", "netpol-tests", "--test", "crash", "--"]);
    tests.args(["--nocapture", "--test-threads", "1"]).args(test);
    tests.env("NETPOL_CRASH_POINTS", points.to_string());
    tests.env("NETPOL_SEED", seed.to_string()).env("NETPOL_REQUIRE_PRIVILEGES", "1");
    shell::run(&mut tests)
}
