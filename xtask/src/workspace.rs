//! The workspace as cargo sees it: its packages, their dependencies and the target folder.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::shell;

/// What `cargo metadata` says, as far as it is used here.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    /// The packages that were asked for.
    pub(crate) packages: Vec<Package>,
    /// Where cargo builds.
    pub(crate) target_directory: PathBuf,
}

/// A package of the workspace or a dependency.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// Its `Cargo.toml`.
    pub(crate) manifest_path: PathBuf,
    /// Its licence as an SPDX expression, if it states one.
    pub(crate) license: Option<String>,
    /// Where it comes from; `None` for a folder on this machine.
    pub(crate) source: Option<String>,
}

impl Workspace {
    /// The workspace's own packages.
    ///
    /// # Errors
    /// Cargo can't read the workspace.
    pub(crate) fn read() -> Result<Self> {
        Self::of(&mut shell::cargo(["metadata", "--format-version=1", "--no-deps"]))
    }

    /// The workspace's own packages and all that they depend on, with any feature, on these platforms.
    ///
    /// # Errors
    /// Cargo can't read the workspace or can't find a dependency.
    pub(crate) fn read_with_dependencies(targets: &[String]) -> Result<Self> {
        let mut metadata = shell::cargo(["metadata", "--format-version=1", "--all-features"]);
        for target in targets {
            metadata.args(["--filter-platform", target]);
        }
        Self::of(&mut metadata)
    }

    fn of(command: &mut Command) -> Result<Self> {
        let metadata = shell::stdout(command)?;
        serde_json::from_str(&metadata).context("reading the output of cargo metadata")
    }
}

impl Package {
    /// The folder of its `Cargo.toml`.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }
}

/// The strings of `key = ["a", "b"]` in a TOML file, without comments between them. A TOML array of
/// strings is a JSON one too, but for a comma at its end.
///
/// # Errors
/// There is no such key, or its value is something else.
pub(crate) fn string_list(toml: &str, key: &str) -> Result<Vec<String>> {
    let mut rest = toml;
    let value = loop {
        let Some((line, after)) = rest.split_once('\n') else { break None };
        if line.split_once('=').is_some_and(|(name, _)| name.trim() == key) {
            break rest.split_once('=').map(|(_, value)| value);
        }
        rest = after;
    };
    let value = value.with_context(|| format!("there is no `{key} = [...]`"))?;
    let array = value.split_inclusive(']').next().unwrap_or_default();
    let items = array.trim().trim_end_matches(']').trim_end().trim_end_matches(',');
    serde_json::from_str(&format!("{items}]"))
        .with_context(|| format!("reading the strings of `{key}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_lists_are_read_from_one_line_or_more() {
        let toml = "[toolchain]\nchannel = \"1.95.0\"\ncomponents = [\"rust-src\", \"clippy\"]\nallow = [\n    \"MIT\",\n    \"ISC\",\n]\n";
        assert_eq!(string_list(toml, "components").unwrap(), ["rust-src", "clippy"]);
        assert_eq!(string_list(toml, "allow").unwrap(), ["MIT", "ISC"]);
    }

    #[test]
    fn a_missing_list_and_another_value_are_errors() {
        assert!(string_list("a = [\"x\"]\n", "b").is_err());
        assert!(string_list("a = 3\n", "a").is_err());
        assert_eq!(string_list("a = []\n", "a").unwrap(), [""; 0]);
    }
}
