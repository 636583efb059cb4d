//! `cargo xtask lint`: formatting, dependencies, clippy for the host and for the kernel, documentation, and that each
//! package builds by itself.

use anyhow::Result;

use crate::{setup, shell, term, workspace::Workspace};

/// The packages that are built for the kernel only.
const KERNEL_PACKAGES: [&str; 2] = ["netpol-ebpf", "reference-ebpf"];

/// Options of `lint`.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Let rustfmt and clippy fix what they can, then check.
    #[arg(long)]
    fix: bool,
}

/// Sets up and checks, cheap checks first; stops at the first failure.
///
/// # Errors
/// The set-up or a check failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { fix } = options;
    setup::ensure(setup::Purpose::Building)?;
    if *fix {
        term::heading("repair");
        shell::run(&mut shell::cargo(["fmt", "--all"]))?;
        shell::run(&mut shell::cargo([
            "clippy",
            "--all-targets",
            "--all-features",
            "--fix",
            "--allow-dirty",
            "--allow-staged",
        ]))?;
    }
    term::heading("formatting");
    shell::run(&mut shell::cargo(["fmt", "--all", "--check"]))?;
    term::heading("dependencies");
    setup::for_dependencies()?;
    shell::run(&mut shell::cargo(["deny", "--locked", "check", "bans", "licenses", "sources"]))?;
    term::heading("clippy for the kernel");
    kernel()?;
    term::heading("clippy for the host");
    let deny = ["--", "-D", "warnings"];
    shell::run(shell::cargo(["clippy", "--all-targets", "--all-features"]).args(deny))?;
    term::heading("each crate by itself");
    for package in Workspace::read()?.packages {
        if !KERNEL_PACKAGES.contains(&package.name.as_str()) {
            shell::run(&mut shell::cargo(["check", "--quiet", "-p", &package.name]))?;
        }
    }
    term::heading("documentation");
    shell::run(
        shell::cargo(["doc", "--no-deps", "--all-features"]).env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    term::good("lint");
    Ok(())
}

/// Clippy on the kernel programs. In a separate target folder, because `RUSTC_BOOTSTRAP`, which allows building `core` with the
/// pinned compiler, would invalidate the build scripts of shared dependencies each time.
fn kernel() -> Result<()> {
    let target_directory = Workspace::read()?.target_directory.join("bpf");
    let mut clippy = shell::cargo(["clippy", "-p", "netpol-common"]);
    clippy.args(KERNEL_PACKAGES.iter().flat_map(|package| ["-p", package]));
    clippy.args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"]);
    clippy.arg(target_directory).args(["--", "-D", "warnings"]);
    shell::run(clippy.env("RUSTC_BOOTSTRAP", "1"))
}
