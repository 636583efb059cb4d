//! The shell of a machine with another processor: Debian's package for it, unpacked.
//!
//! In: nothing. Out: a program, which is kept. The other programs there are our own, and static.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::setup::apt::{Apt, Source};
use crate::shell;

/// The same release as that of the kernels.
const SOURCE: Source = Source::Release("bookworm", "arm64");
/// A shell and small tools in one static program.
const PACKAGE: &str = "busybox-static";
/// Its path in the package.
const PROGRAM: &str = "bin/busybox";

/// The busybox for 64-bit ARM.
///
/// # Errors
/// Debian's archive cannot be reached, or the package cannot be unpacked.
pub(super) fn arm64(cache: &Path) -> Result<PathBuf> {
    let kept = cache.join("busybox-arm64");
    if kept.is_file() {
        return Ok(kept);
    }
    let folder = cache.join("busybox-arm64.unfinished");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let download = folder.join("package");
    fs::create_dir_all(&download)?;
    let package = Apt::new(SOURCE, cache)?.download(PACKAGE, &download)?;
    let all = folder.join("all");
    shell::stdout(shell::command("dpkg-deb").arg("--extract").arg(package).arg(&all))?;
    fs::rename(all.join(PROGRAM), &kept).context("the package has no busybox")?;
    fs::remove_dir_all(&folder)?;
    Ok(kept)
}
