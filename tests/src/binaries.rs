//! The workspace's own binaries, for tests that run them.
//!
//! In: a package's name. Out: the path of its binary, built from the sources as they are now. Cargo tells
//! a test only of the binaries of its own package, so they are looked for beside the test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, bail};

/// The binary that has the name of its package, such as `netpol-cni`, in the profile of the running test.
///
/// Built if it is missing or older than one of its sources.
///
/// # Errors
/// If it does not build.
pub fn binary(package: &str) -> anyhow::Result<PathBuf> {
    let profile_dir = profile_dir()?;
    let path = profile_dir.join(package);
    if !is_fresh(&path) {
        build(package, &profile_dir)?;
    }
    if !path.is_file() {
        bail!("building package {package} has not made {}", path.display());
    }
    Ok(path)
}

/// Where cargo puts binaries of this profile: the test itself is in its `deps`.
fn profile_dir() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe().context("finding the running test")?;
    let dir = test.parent().context("the running test has no directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    Ok(dir.to_owned())
}

/// Is the binary there and no source newer? Cargo lists the sources in a `.d` file beside it.
fn is_fresh(binary: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let Some(built) = modified(binary) else { return false };
    let Ok(sources) = std::fs::read_to_string(binary.with_extension("d")) else { return true };
    let is_older = |source: &str| {
        let changed: Option<SystemTime> = modified(Path::new(source));
        changed.is_some_and(|changed| changed <= built)
    };
    sources.split_once(": ").is_none_or(|(_, sources)| sources.split_whitespace().all(is_older))
}

fn build(package: &str, profile_dir: &Path) -> anyhow::Result<()> {
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let target_dir = profile_dir.parent().unwrap_or(profile_dir);
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["build", "--quiet", "--package", package, "--bin", package, "--profile", profile])
        .arg("--target-dir")
        .arg(target_dir)
        .status()
        .with_context(|| format!("running cargo to build package {package}"))?;
    if !status.success() {
        bail!("building package {package} failed with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_fresh_until_a_source_is_newer_or_gone() {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("thing");
        assert!(!is_fresh(&binary));
        let source = dir.path().join("main.rs");
        std::fs::write(&source, "").unwrap();
        std::fs::write(&binary, "").unwrap();
        let list = format!("{}: {}\n", binary.display(), source.display());
        std::fs::write(dir.path().join("thing.d"), list).unwrap();
        assert!(is_fresh(&binary));
        let built = binary.metadata().unwrap().modified().unwrap();
        let set_source_time = |time| {
            std::fs::File::options().write(true).open(&source).unwrap().set_modified(time).unwrap();
        };
        set_source_time(built + std::time::Duration::from_secs(1));
        assert!(!is_fresh(&binary));
        std::fs::remove_file(&source).unwrap();
        assert!(!is_fresh(&binary));
    }
}
