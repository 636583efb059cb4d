//! The project's own programs, built if they are not, for tests that run them.
//!
//! In: a package's name. Out: the path of its binary, made from the sources as they are now. Cargo builds
//! only the binaries of a test's own package by itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::lab::programs;

/// The binary that has the name of its package, such as `netpol-cni`, in the profile of the running test.
///
/// # Errors
/// If it does not build.
pub fn binary(package: &str) -> Result<PathBuf> {
    match programs::find(package) {
        Ok(program) => Ok(program),
        Err(_missing_or_old) => {
            build(package, &programs::folder()?)?;
            programs::find(package)
        }
    }
}

fn build(package: &str, folder: &Path) -> Result<()> {
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["build", "--quiet", "--package", package, "--bin", package, "--profile", profile])
        .arg("--target-dir")
        .arg(folder.parent().unwrap_or(folder))
        .status()
        .with_context(|| format!("running cargo to build package {package}"))?;
    if !status.success() {
        bail!("building package {package} failed with {status}");
    }
    Ok(())
}
