//! `cargo xtask tidy`: the rules of the code base that neither the compiler nor clippy knows.
//!
//! Each check is a function from a file to its findings, so that its tests feed it text. The checks:
//! size, module documentation and names ([`form`]); arrows between modules, owners of libraries and
//! `unsafe` ([`layers`]); lints and licences ([`manifests`]).

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use self::source::{Finding, Severity, SourceFile};
use crate::{
    term,
    workspace::{Package, Workspace},
};

mod form;
mod layers;
mod lexer;
mod manifests;
mod source;

/// Options of `tidy`: there is nothing to choose.
#[derive(clap::Args, Default)]
pub(crate) struct Options {}

/// The checks of a source file.
const CHECKS: [fn(&SourceFile<'_>) -> Vec<Finding>; 6] =
    [form::size, form::module_docs, form::names, layers::arrows, layers::owners, layers::no_unsafe];

/// The folders of a package that hold source files.
const FOLDERS: [&str; 4] = ["src", "tests", "benches", "examples"];

/// Checks the whole workspace and prints what it finds.
///
/// # Errors
/// A rule is broken, or a file can't be read.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options {} = options;
    term::heading("tidy");
    let workspace = Workspace::read()?;
    let (mut findings, mut n_files) = (Vec::new(), 0_usize);
    for package in &workspace.packages {
        let manifest = read(&package.manifest_path)?;
        findings.extend(manifests::lints(&package.name, &manifest));
        let mut paths = Vec::new();
        for folder in FOLDERS {
            collect(package, Path::new(folder), &mut paths)?;
        }
        paths.extend(package.folder().join("build.rs").is_file().then(|| "build.rs".to_owned()));
        for path in paths {
            let text = read(&package.folder().join(&path))?;
            let file = SourceFile { package: &package.name, path: &path, text: &text };
            findings.extend(CHECKS.iter().flat_map(|check| check(&file)));
            n_files += 1;
        }
    }
    findings.extend(manifests::licences()?);
    report(&findings, n_files)
}

fn report(findings: &[Finding], n_files: usize) -> Result<()> {
    for finding in findings {
        match finding.severity {
            Severity::Warning => term::warning(&finding.to_string()),
            Severity::Error => term::failure(&finding.to_string()),
        }
    }
    let n_errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    if n_errors > 0 {
        bail!("tidy: {n_errors} rules broken in {n_files} files");
    }
    term::good(&format!("tidy: {n_files} files"));
    Ok(())
}

/// Adds the paths, from the package's folder, of the Rust files below one of its folders.
fn collect(package: &Package, folder: &Path, paths: &mut Vec<String>) -> Result<()> {
    let full = package.folder().join(folder);
    if !full.is_dir() {
        return Ok(());
    }
    let context = || format!("reading {}", full.display());
    let mut entries = fs::read_dir(&full)
        .with_context(context)?
        .collect::<Result<Vec<_>, _>>()
        .with_context(context)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = folder.join(entry.file_name());
        if entry.path().is_dir() {
            collect(package, &path, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}
