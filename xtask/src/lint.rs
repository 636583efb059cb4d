//! `cargo xtask lint`: formatting, dependencies, clippy for the host and for the kernel, documentation, and that each
//! crate stands by itself.

use anyhow::Result;

use crate::{setup, shell, term, workspace::Workspace};

/// The packages that are only built for the kernel.
const KERNEL_PACKAGES: [&str; 2] = ["netpol-ebpf", "reference-ebpf"];

/// Options of `lint`.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Let rustfmt and clippy change what they can, then check.
    #[arg(long)]
    fix: bool,
}

/// Sets up and checks; stops at the first check that fails, the cheap ones come first.
///
/// # Errors
/// The set-up failed or a check found something.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { fix } = options;
    setup::run(&setup::Options::default())?;
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

/// Clippy on what the kernel runs. In its own folder: `RUSTC_BOOTSTRAP`, which allows building `core`
/// with the pinned compiler, would make the build scripts of shared dependencies run anew each time.
fn kernel() -> Result<()> {
    let target_directory = Workspace::read()?.target_directory.join("bpf");
    let mut clippy = shell::cargo(["clippy", "-p", "netpol-common"]);
    clippy.args(KERNEL_PACKAGES.iter().flat_map(|package| ["-p", package]));
    clippy.args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"]);
    clippy.arg(target_directory).args(["--", "-D", "warnings"]);
    shell::run(clippy.env("RUSTC_BOOTSTRAP", "1"))
}
