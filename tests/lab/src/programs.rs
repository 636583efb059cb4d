//! The workspace's programs, as cargo built them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};

/// The command that builds them.
const BUILD: &str = "cargo build -p netpol-agent -p netpol-cni -p netpol-lab -p netpol-bench";

/// Finds a program in the folder of the running one.
///
/// # Errors
/// It has not been built, or it is older than one of its sources.
pub fn find(name: &str) -> Result<PathBuf> {
    let folder = folder()?;
    let program = folder.join(name);
    check(&program, &folder.join(format!("{name}.d")))?;
    Ok(program)
}

/// Checks that a program, or a file made from it, exists and is not older than the sources, which cargo lists in the
/// program's `.d` file.
///
/// # Errors
/// It is missing or older.
pub fn check(program: &Path, dep_info: &Path) -> Result<()> {
    let Some(built) = modified(program) else {
        bail!("{} does not exist; `{BUILD}` builds it", program.display());
    };
    let sources = fs::read_to_string(dep_info).unwrap_or_default();
    let newer =
        sources_of(&sources).find(|source| modified(source).is_some_and(|time| time > built));
    if let Some(source) = newer {
        bail!("{} is older than {}; `{BUILD}` renews it", program.display(), source.display());
    }
    Ok(())
}

/// Whether a file is newer than all files in a folder.
///
/// # Errors
/// The folder cannot be read.
pub fn is_newer(file: &Path, folder: &Path) -> Result<bool> {
    let Some(made) = modified(file) else { return Ok(false) };
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                waiting.push(entry?.path());
            }
        } else if modified(&path).is_some_and(|time| time > made) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where cargo puts the programs of this profile.
///
/// # Errors
/// The path of the running program is unknown.
pub fn folder() -> Result<PathBuf> {
    let program = std::env::current_exe().context("finding the running program")?;
    let folder = program.parent().context("the running program has no folder")?;
    let is_test = folder.file_name().is_some_and(|name| name == "deps");
    let folder = if is_test { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_owned())
}

/// The sources in a line `program: source source ...`, in which spaces within paths are escaped.
fn sources_of(dep_info: &str) -> impl Iterator<Item = PathBuf> {
    let line = dep_info.lines().next().unwrap_or_default();
    let (_, sources) = line.split_once(": ").unwrap_or_default();
    let escaped = sources.replace("\\ ", "\0");
    let sources: Vec<_> = escaped.split(' ').map(|path| path.replace('\0', " ").into()).collect();
    sources.into_iter()
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_from_what_cargo_writes() {
        let sources: Vec<_> = sources_of("/t/debug/a: /a/b.rs /a/with\\ space.rs\n").collect();
        assert_eq!(sources, [Path::new("/a/b.rs"), Path::new("/a/with space.rs")]);
    }

    #[test]
    fn a_program_that_was_not_built_is_named_with_the_command_that_builds_it() {
        let error = find("netpol-nonesuch").unwrap_err().to_string();
        assert!(error.contains("netpol-nonesuch") && error.contains("cargo build"), "{error}");
    }
}
