//! Paths of the workspace's programs, for tests that run them. Stale programs are rebuilt.
//!
//! In: a program's name. Out: its path. The program is up to date with the sources, because cargo by itself builds only
//! the binaries of a test's own package.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};

use crate::{programs, repository};

/// A folder that is searched first.
static PREFERRED: OnceLock<PathBuf> = OnceLock::new();

/// Searches this folder first from now on and does not rebuild its programs, such as the static ones of the image. Later
/// calls have no effect.
pub fn prefer(folder: PathBuf) {
    PREFERRED.get_or_init(|| folder);
}

/// Binaries whose package has another name.
const OTHER_PACKAGES: [(&str, &str); 3] =
    [("netpol-probe", "netpol-lab"), ("cold", "netpol-bench"), ("kubectl-netpol", "netpol-cli")];

/// A binary of the workspace, such as `netpol-cni`, in the profile of the running test.
///
/// # Errors
/// If it does not build.
pub fn binary(name: &str) -> Result<PathBuf> {
    let preferred = PREFERRED.get().map(|folder| folder.join(name));
    if let Some(program) = preferred.filter(|program| program.exists()) {
        return Ok(program);
    }
    match programs::find(name) {
        Ok(program) => Ok(program),
        Err(_missing_or_old) => {
            build(name, &programs::folder()?)?;
            programs::find(name)
        }
    }
}

/// The container image with unoptimised programs.
///
/// # Errors
/// If it does not build.
pub fn image() -> Result<PathBuf> {
    let folder = programs::folder()?;
    let target = folder.parent().context("the programs' folder has no parent")?;
    let (processor, arch) = match std::env::consts::ARCH {
        "aarch64" => ("aarch64", "arm64"),
        _ => ("x86_64", "amd64"),
    };
    let image = target.join(format!("netpol-{}-dev-{arch}.tar", env!("CARGO_PKG_VERSION")));
    let programs = target.join(format!("{processor}-unknown-linux-musl/debug"));
    let is_fresh = ["netpol-agent", "netpol-cni", "kubectl-netpol"]
        .iter()
        .all(|name| programs::check(&image, &programs.join(format!("{name}.d"))).is_ok());
    if !is_fresh {
        let mut xtask = cargo();
        xtask.args(["xtask", "image", "--dev", "--output"]).arg(&image);
        run(&mut xtask, "the image")?;
    }
    Ok(image)
}

fn build(name: &str, folder: &Path) -> Result<()> {
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let package = OTHER_PACKAGES.iter().find(|(binary, _)| *binary == name);
    let package = package.map_or(name, |(_, package)| package);
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", package, "--bin", name, "--profile", profile]);
    build.arg("--target-dir").arg(folder.parent().unwrap_or(folder));
    run(&mut build, name)
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository::path(""));
    // Build scripts such as ring's rerun when cargo's variables about the test's own package reach them.
    for (name, _) in std::env::vars_os() {
        let is_ours = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        });
        if is_ours {
            cargo.env_remove(name);
        }
    }
    cargo
}

fn run(cargo: &mut Command, what: &str) -> Result<()> {
    let status = cargo.status().with_context(|| format!("running cargo to build {what}"))?;
    if !status.success() {
        bail!("building {what} failed with {status}");
    }
    Ok(())
}
