//! `cargo xtask build`: the agent with its eBPF programs, the CNI plugin and the command-line tool.

use anyhow::Result;

use crate::{revision, revision::Revision, setup, shell, term};

/// Options of `build`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Optimised, as for a release.
    #[arg(long)]
    release: bool,
}

/// Sets up and builds.
///
/// # Errors
/// The set-up or the build failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { release } = options;
    setup::ensure(setup::Purpose::Building)?;
    term::heading("build");
    let mut build =
        shell::cargo(["build", "-p", "netpol-agent", "-p", "netpol-cni", "-p", "netpol-cli"]);
    if *release {
        build.arg("--release");
        if let Some(revision) = Revision::read()? {
            build.env(revision::VARIABLE, revision.short());
        }
    }
    shell::run(&mut build)?;
    let folder = if *release { "release" } else { "debug" };
    term::good(&format!("built netpol-agent, netpol-cni and kubectl-netpol in target/{folder}"));
    Ok(())
}

/// Builds the programs that tests, and programs of tests, run.
///
/// # Errors
/// The build failed: the error contains the end of its output.
pub(crate) fn programs() -> Result<()> {
    let packages = ["netpol-agent", "netpol-cni", "netpol-cli", "netpol-lab", "netpol-bench"];
    let mut build = shell::cargo(["build", "--bins"]);
    shell::step(
        "building the agent with its eBPF programs, and the CNI plugin",
        build.args(packages.iter().flat_map(|package| ["-p", package])),
    )
}

/// Builds these programs and the tests at once. One after the other, what both need would be built twice: dependencies of tests have
/// further features.
///
/// # Errors
/// The build failed: the error contains the end of its output.
pub(crate) fn tests() -> Result<()> {
    shell::step(
        "building the agent with its eBPF programs, the CNI plugin, and the tests",
        &mut shell::cargo(["build", "--bins", "--tests"]),
    )
}

/// Builds what the demo runs. Without the benchmarks, which take a quarter longer to compile.
///
/// # Errors
/// The build failed: the error contains the end of its output.
pub(crate) fn demo() -> Result<()> {
    let mut build = shell::cargo(["build"]);
    for (package, program) in [
        ("netpol-agent", "netpol-agent"),
        ("netpol-cni", "netpol-cni"),
        ("netpol-lab", "demo"),
        ("netpol-lab", "netpol-probe"),
    ] {
        build.args(["-p", package, "--bin", program]);
    }
    shell::step(
        "building the agent with its eBPF programs, the CNI plugin, and the demo",
        &mut build,
    )
}

/// The packages and the programs that benchmarks measure and run.
const BENCHMARKED: [(&str, &str); 6] = [
    ("netpol-agent", "netpol-agent"),
    ("netpol-cni", "netpol-cni"),
    ("netpol-cli", "kubectl-netpol"),
    ("netpol-lab", "netpol-probe"),
    ("netpol-bench", "cold"),
    ("netpol-bench", "bench"),
];

/// Builds what benchmarks measure and run, optimised.
///
/// # Errors
/// The build failed: the error contains the end of its output.
pub(crate) fn optimised_programs() -> Result<()> {
    let mut build = shell::cargo(["build", "--release"]);
    build.args(BENCHMARKED.iter().flat_map(|(package, program)| ["-p", package, "--bin", program]));
    shell::step("building the programs, optimised", &mut build)
}
