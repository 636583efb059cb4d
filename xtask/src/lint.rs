//! `cargo xtask lint`: formatting, clippy for the host and for the kernel, documentation, and that each
//! crate and the core stand by themselves.

use anyhow::{Result, bail};

use crate::{setup, shell, term, workspace::Workspace};

/// Libraries that the core of netpol-agent, built without its default features, must not pull in.
const NOT_IN_THE_CORE: [&str; 3] = ["kube", "aya", "tokio"];

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
    term::heading("the core uses none of kube, aya, tokio");
    core_is_lean()?;
    term::heading("clippy for the kernel");
    kernel()?;
    term::heading("clippy for the host");
    let deny = ["--", "-D", "warnings"];
    shell::run(shell::cargo(["clippy", "--all-targets", "--all-features"]).args(deny))?;
    shell::run(
        shell::cargo(["clippy", "-p", "netpol-agent", "--no-default-features", "--all-targets"])
            .args(deny),
    )?;
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

fn core_is_lean() -> Result<()> {
    let args = [
        "tree",
        "-p",
        "netpol-agent",
        "--no-default-features",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
    ];
    let found = intruders(&shell::stdout(&mut shell::cargo(args))?);
    if !found.is_empty() {
        bail!(
            "netpol-agent --no-default-features depends on {}: `cargo tree -p netpol-agent --no-default-features -i {}` shows how",
            found.join(", "),
            found.join(" -i ")
        );
    }
    term::good("none");
    Ok(())
}

/// The libraries in a list of `name version` lines that must not be there.
fn intruders(tree: &str) -> Vec<&'static str> {
    let is_listed = |name: &str| tree.lines().any(|line| line.split(' ').next() == Some(name));
    NOT_IN_THE_CORE.into_iter().filter(|name| is_listed(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_of_the_edges_is_found_in_the_core() {
        assert_eq!(intruders("netpol-agent v0.1.0\ntokio v1.0.0\nserde v1.0.0\n"), ["tokio"]);
        assert!(intruders("netpol-agent v0.1.0\ntokio-util v1.0.0\n").is_empty());
    }
}
