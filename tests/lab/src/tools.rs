//! Programs that `cargo xtask setup` has put into the target folder, because no system has them as a package.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::programs;

/// Where set-up puts a tool.
///
/// # Errors
/// It is not there.
pub fn path(name: &str) -> Result<PathBuf> {
    let folder = programs::folder()?;
    let target = folder.parent().context("the programs' folder has no parent")?;
    let path = target.join("tools").join(name);
    ensure!(path.is_file(), "no {}: `cargo xtask setup` puts it there", path.display());
    Ok(path)
}
