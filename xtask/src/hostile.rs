//! `cargo xtask hostile`: attacks a node with raw frames and with objects of tenants.

use anyhow::{Result, bail};

use crate::{build, privilege::Privilege, setup, shell, term};

/// Options of `hostile`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only tests whose names contain this, such as the name of a module.
    test: Option<String>,
}

/// Sets up, builds, and runs the hostile suite.
///
/// # Errors
/// The set-up or the build failed, a test failed, or this user is not root.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { test } = options;
    setup::ensure(setup::Purpose::Testing)?;
    term::heading("build");
    build::tests()?;
    if Privilege::detect() != Privilege::Root {
        bail!(
            "the hostile suite makes network namespaces and loads eBPF programs: run this as root"
        );
    }
    let suite = "package(=netpol-tests) & binary(=hostile)";
    let mut tests = shell::cargo(["nextest", "run", "--no-fail-fast", "-E", suite]);
    tests.args(test).env("NETPOL_REQUIRE_PRIVILEGES", "1");
    shell::run(&mut tests)
}
