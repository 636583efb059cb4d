//! `cargo xtask tidy`: the rules of the code base that no standard tool checks.
//!
//! The length of files, the documentation of modules, the opt-in of each package to the workspace's lints, forbidden
//! dependencies, and [`words`].

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{
    shell, term, words,
    workspace::{self, Workspace},
};

/// Maximum lines of a file; aim for 400.
const MAX_LINES: usize = 600;

/// Forbidden dependencies of packages, direct and indirect, including the libraries' families.
const WALLS: [(&str, &[&str]); 6] = [
    ("netpol-proto", &["tokio", "kube", "aya"]),
    ("netpol-policy", &["tokio", "kube", "aya"]),
    ("netpol-cni", &["tokio", "kube", "aya"]),
    ("netpol-observer", &["aya"]),
    ("netpol-cli", &["aya"]),
    ("netpol-datapath", &["kube"]),
];

/// Checks the whole workspace and prints what it finds.
///
/// # Errors
/// A rule is broken, or a file can't be read.
pub(crate) fn run() -> Result<()> {
    term::heading("tidy");
    let mut findings = Vec::new();
    for package in Workspace::read()?.packages {
        let manifest = fs::read_to_string(&package.manifest_path)?;
        if !manifest.contains("\n[lints]\nworkspace = true\n") {
            findings.push(format!("{}: no `[lints]` with `workspace = true`", package.name));
        }
    }
    for (package, libraries) in WALLS {
        findings
            .extend(wall(package, libraries).unwrap_or_else(|error| vec![format!("{error:#}")]));
    }
    let files = workspace::files()?;
    for path in files.iter().filter(|path| Path::new(path).extension().is_some_and(|e| e == "rs")) {
        let text = fs::read_to_string(shell::root().join(path));
        findings.extend(source(path, &text.with_context(|| format!("reading {path}"))?));
    }
    findings.extend(words::check(&files)?);
    for finding in &findings {
        term::failure(finding);
    }
    if !findings.is_empty() {
        bail!("tidy: {} rules broken", findings.len());
    }
    term::good(&format!("tidy: {} files", files.len()));
    Ok(())
}

fn source(path: &str, text: &str) -> Vec<String> {
    let n_lines = text.lines().count();
    let is_long = n_lines > MAX_LINES;
    let too_long =
        is_long.then(|| format!("{path}: {n_lines} lines: above {MAX_LINES} it must be split"));
    let without_docs = (!text.starts_with("//!")).then(|| {
        format!("{path}:1: a module starts with `//!`: what goes in, what comes out, what it must not do")
    });
    too_long.into_iter().chain(without_docs).collect()
}

/// The forbidden dependencies of a package and its build script; tests may use anything. A package that does not exist is an
/// error.
fn wall(package: &str, libraries: &[&str]) -> Result<Vec<String>> {
    // Resolved for the package by itself, because other packages of the workspace enable features of shared dependencies.
    let options = ["--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
    let mut tree = shell::cargo(["tree", "--locked", "-p", package]);
    let tree =
        shell::stdout(tree.args(options)).with_context(|| format!("the wall of {package}"))?;
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    let is_forbidden = |name: &&str| libraries.iter().any(|library| is_of(name, library));
    let say =
        |name| format!("{package} must not depend on {name}: cargo tree -p {package} -i {name}");
    Ok(names.into_iter().filter(is_forbidden).map(say).collect())
}

/// Whether this package is the library or of its family, as `kube-client` is of `kube`.
fn is_of(name: &str, library: &str) -> bool {
    name.strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_and_one_without_documentation_are_found() {
        assert!(source("a.rs", &format!("//! Doc.\n{}", "\n".repeat(599))).is_empty());
        assert_eq!(source("a.rs", &"\n".repeat(601)).len(), 2);
    }

    #[test]
    fn a_wall_names_the_library_behind_it_and_a_package_that_is_missing() {
        assert!(wall("xtask", &["aya"]).unwrap().is_empty());
        assert!(wall("xtask", &["clap_lex"]).unwrap()[0].contains("must not depend on clap_lex"));
        assert!(wall("netpol-nonesuch", &[]).is_err());
    }

    #[test]
    fn a_family_is_known_by_its_name() {
        assert!(is_of("kube", "kube") && is_of("kube-client", "kube"));
        assert!(!is_of("kubernetes", "kube"));
    }
}
