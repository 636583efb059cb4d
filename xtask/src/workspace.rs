//! The workspace according to cargo and git: its packages, the target folder, its files.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::shell;

/// The used part of the output of `cargo metadata`.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    /// The packages of the workspace.
    pub(crate) packages: Vec<Package>,
    /// Cargo's target folder.
    pub(crate) target_directory: PathBuf,
}

/// A package of the workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// Its `Cargo.toml`.
    pub(crate) manifest_path: PathBuf,
}

impl Workspace {
    /// The version of the programs.
    ///
    /// # Errors
    /// The package of the agent is missing.
    pub(crate) fn version(&self) -> Result<String> {
        let agent = self.packages.iter().find(|package| package.name == "netpol-agent");
        agent
            .map(|package| package.version.clone())
            .context("the workspace has no package netpol-agent")
    }

    /// Runs `cargo metadata`.
    ///
    /// # Errors
    /// Cargo can't read the workspace.
    pub(crate) fn read() -> Result<Self> {
        let metadata =
            shell::stdout(&mut shell::cargo(["metadata", "--format-version=1", "--no-deps"]))?;
        serde_json::from_str(&metadata).context("reading the output of cargo metadata")
    }
}

/// The paths of the repository's files, from its root: tracked ones, and new ones that are not ignored.
///
/// # Errors
/// git is missing, or this is no checkout.
pub(crate) fn files() -> Result<Vec<String>> {
    // The checkout may belong to another user.
    let mut git = shell::command("git");
    git.args(["-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"]);
    let output = shell::stdout(&mut git)?;
    let is_there = |path: &&str| shell::root().join(path).is_file();
    Ok(output.lines().filter(is_there).map(str::to_owned).collect())
}

/// The strings of `key = ["a", "b"]` in a TOML file, without comments between them. A TOML array of strings is JSON too, except
/// for a trailing comma.
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
