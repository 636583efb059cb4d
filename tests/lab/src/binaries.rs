//! Paths of the workspace's programs, for tests that run them. Stale programs are rebuilt.
//!
//! In: a program's name. Out: its path. The program is up to date with the sources, because cargo by itself builds only
//! the binaries of a test's own package.

use std::fs::File;
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

/// The version of the programs.
const VERSION: &str = env!("CARGO_PKG_VERSION");

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

/// The folder of a release with unoptimised programs, as `cargo xtask release --dev` writes it.
///
/// # Errors
/// If it does not build.
pub fn release() -> Result<PathBuf> {
    let folder = programs::folder()?;
    let target = folder.parent().context("the programs' folder has no parent")?;
    let processor = std::env::consts::ARCH;
    let release = target.join(format!("netpol-{VERSION}-dev"));
    let programs = target.join(format!("{processor}-unknown-linux-musl/debug"));
    // Several tests may find it stale.
    let lock = File::create(target.join("netpol-dev.lock"))?;
    lock.lock()?;
    let sums = release.join("SHA256SUMS");
    let is_fresh = ["netpol-agent", "netpol-cni", "kubectl-netpol"]
        .iter()
        .all(|name| programs::check(&sums, &programs.join(format!("{name}.d"))).is_ok())
        && programs::is_newer(&sums, &repository::path("deploy"))?;
    if !is_fresh {
        let mut xtask = cargo();
        run(xtask.args(["xtask", "release", "--dev"]), "the release")?;
    }
    Ok(release)
}

/// The archive of the container image in [`release`].
///
/// # Errors
/// If it does not build.
pub fn image() -> Result<PathBuf> {
    Ok(release()?.join(format!("netpol-{VERSION}.oci.tar")))
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
