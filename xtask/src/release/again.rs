//! The same release from a second checkout in another folder, and the comparison.
//!
//! In: the first release's folder. Out: an error that names the first file that differs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum as _;

use super::assets::Release;
use crate::image::Platform;
use crate::workspace::Workspace;
use crate::{shell, term};

/// Clones the commit into the target folder, releases it there, and compares.
///
/// # Errors
/// The checkout has changes, the second build failed, or a file differs.
pub(super) fn compare(release: &Release, platforms: &[Platform], first: &Path) -> Result<()> {
    let Release { version, registry, downloads, revision } = release;
    let revision = revision.as_ref().context("only a checkout can be built a second time")?;
    ensure!(!revision.is_dirty, "commit first: a second checkout would lack what has changed");
    let folder = Workspace::read()?.target_directory.join("release-again");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let mut clone = shell::command("git");
    clone.args(["-c", "safe.directory=*", "clone", "--quiet", "--shared", "."]).arg(&folder);
    shell::step("cloning the checkout", &mut clone)?;
    let second = folder.join("target/second");
    let mut again = shell::cargo(["run", "--quiet", "--package", "xtask", "--", "release"]);
    again.current_dir(&folder).env_remove("CARGO_TARGET_DIR");
    again.args(["--version", version, "--registry", registry, "--downloads", downloads]);
    for platform in platforms {
        let name = platform.to_possible_value().context("a processor without a name")?;
        again.args(["--arch", name.get_name()]);
    }
    shell::step("releasing from the second checkout", again.arg("--output").arg(&second))?;
    same(&contents(first)?, &contents(&second)?)?;
    fs::remove_dir_all(&folder)?;
    term::good("both releases are equal in every byte");
    Ok(())
}

/// The files of a folder, by path below it.
fn contents(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                waiting.push(entry?.path());
            }
        } else {
            let name = path.strip_prefix(folder)?.display().to_string();
            files.insert(name, fs::read(&path)?);
        }
    }
    Ok(files)
}

fn same(first: &BTreeMap<String, Vec<u8>>, second: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let differs = |name: &&String| first.get(*name) != second.get(*name);
    let names: BTreeSet<_> = first.keys().chain(second.keys()).filter(differs).collect();
    ensure!(names.is_empty(), "these files are not the same twice: {names:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_differs_or_is_missing_is_named() {
        let files = |content: &[(&str, &str)]| -> BTreeMap<String, Vec<u8>> {
            content.iter().map(|(name, text)| ((*name).to_owned(), (*text).into())).collect()
        };
        let first = files(&[("a", "1"), ("b", "2")]);
        same(&first, &first.clone()).unwrap();
        let error = same(&first, &files(&[("a", "1"), ("b", "3")])).unwrap_err().to_string();
        assert!(error.ends_with("twice: {\"b\"}"), "{error}");
        same(&first, &files(&[("a", "1")])).unwrap_err();
    }
}
