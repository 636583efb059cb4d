//! The workspace as cargo sees it: its packages and its target folder.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::shell;

/// What `cargo metadata` says, as far as it is used here.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    /// Where cargo builds.
    pub(crate) target_directory: PathBuf,
}

impl Workspace {
    /// Asks cargo, without looking at dependencies.
    ///
    /// # Errors
    /// Cargo can't read the workspace.
    pub(crate) fn read() -> Result<Self> {
        let metadata =
            shell::stdout(&mut shell::cargo(["metadata", "--no-deps", "--format-version=1"]))?;
        serde_json::from_str(&metadata).context("reading the output of cargo metadata")
    }
}
