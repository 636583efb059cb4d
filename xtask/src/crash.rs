//! `cargo xtask crash`: kills the agent at every point of a change, not only at some points as `cargo xtask test`.

use anyhow::{Result, bail};

use crate::{build, privilege::Privilege, setup, shell, term};

/// Options of `crash`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Number of points of each test [default: all].
    #[arg(long, default_value_t = usize::MAX)]
    points: usize,
    /// Selects other points, if not all are tried.
    #[arg(long, default_value_t = 1)]
    seed: usize,
    /// Only tests whose names contain this: changes, versions, calls, removal.
    test: Option<String>,
}

/// Sets up, builds, and runs the crash tests.
///
/// # Errors
/// The set-up or the build failed, a test failed, or this user is not root.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { points, seed, test } = options;
    setup::ensure(setup::Purpose::Testing)?;
    term::heading("build");
    build::programs()?;
    if Privilege::detect() != Privilege::Root {
        bail!(
            "the crash tests make network namespaces and trace root's processes: run this as root"
        );
    }
    // Not under nextest, whose time limits are too short.
    let mut tests = shell::cargo(["test", "-p", "netpol-tests", "--test", "crash", "--"]);
    tests.args(["--nocapture", "--test-threads", "1"]).args(test);
    tests.env("NETPOL_CRASH_POINTS", points.to_string());
    tests.env("NETPOL_SEED", seed.to_string()).env("NETPOL_REQUIRE_PRIVILEGES", "1");
    shell::run(&mut tests)
}
