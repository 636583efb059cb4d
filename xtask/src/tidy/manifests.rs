//! What the crates' manifests must say: each takes part in the lints, and each dependency comes from
//! the registry under a licence that `deny.toml` allows.

use std::fs;

use anyhow::{Context as _, Result};

use super::source::{Finding, Severity};
use crate::{
    shell,
    workspace::{Package, Workspace, string_list},
};

/// The registry that dependencies come from, as cargo names it.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks that a package takes part in the workspace's lints.
pub(super) fn lints(package: &str, manifest: &str) -> Option<Finding> {
    let section = manifest.split("\n[").find_map(|section| section.strip_prefix("lints]"));
    let is_in = section.is_some_and(|section| {
        section.lines().any(|line| line.replace(' ', "") == "workspace=true")
    });
    (!is_in).then(|| Finding {
        place: format!("{package}/Cargo.toml"),
        severity: Severity::Error,
        message: "a crate takes part in the workspace's lints: `[lints]` with `workspace = true`"
            .to_owned(),
    })
}

/// Checks where all dependencies come from and under which licences.
///
/// # Errors
/// `deny.toml` can't be read, or cargo can't list the dependencies.
pub(super) fn licences() -> Result<Vec<Finding>> {
    let file = shell::root().join("deny.toml");
    let context = || format!("reading {}", file.display());
    let deny = fs::read_to_string(&file).with_context(context)?;
    let allowed = string_list(&deny, "allow").with_context(context)?;
    let targets = string_list(&deny, "targets").with_context(context)?;
    let workspace = Workspace::read_with_dependencies(&targets)?;
    Ok(workspace.packages.iter().filter_map(|package| dependency(package, &allowed)).collect())
}

fn dependency(package: &Package, allowed: &[String]) -> Option<Finding> {
    let message = match (package.source.as_deref(), package.license.as_deref()) {
        (Some(source), _) if source != REGISTRY => {
            format!("comes from {source}: only the registry is allowed")
        }
        (_, None) => "states no licence".to_owned(),
        (_, Some(licence)) if !is_allowed(licence, allowed) => {
            format!("has the licence {licence}, which deny.toml does not allow")
        }
        (_, Some(_)) => return None,
    };
    let place = format!("{} {}", package.name, package.version);
    Some(Finding { place, severity: Severity::Error, message })
}

/// Is an SPDX expression satisfied by the allowed licences? Old packages write `/` for `OR`.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any(&mut rest, allowed) && rest.is_empty()
}

fn any(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut satisfied = all(words, allowed);
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        // Both sides are read in any case.
        satisfied |= all(words, allowed);
    }
    satisfied
}

fn all(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut satisfied = one(words, allowed);
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        satisfied &= one(words, allowed);
    }
    satisfied
}

/// A licence, a licence with an exception, or an expression in parentheses.
fn one(words: &mut &[&str], allowed: &[String]) -> bool {
    let is_listed = |name: &str| allowed.iter().any(|licence| licence == name);
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let satisfied = any(words, allowed);
            match *words {
                [")", rest @ ..] => {
                    *words = rest;
                    satisfied
                }
                _ => false,
            }
        }
        [licence, "WITH", exception, rest @ ..] => {
            *words = rest;
            is_listed(&format!("{licence} WITH {exception}"))
        }
        [licence, rest @ ..] => {
            *words = rest;
            is_listed(licence)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(allowed: &[&str], refused: &[&str]) {
        let list = ["MIT", "Apache-2.0", "Unicode-3.0"].map(str::to_owned);
        for expression in allowed {
            assert!(is_allowed(expression, &list), "{expression}");
        }
        for expression in refused {
            assert!(!is_allowed(expression, &list), "{expression}");
        }
    }

    #[test]
    fn one_side_of_or_is_enough() {
        check(&["MIT OR GPL-3.0-only", "GPL-3.0-only/MIT"], &["GPL-3.0-only OR AGPL-3.0-only"]);
    }

    #[test]
    fn both_sides_of_and_are_needed() {
        let allowed = ["(MIT OR Apache-2.0) AND Unicode-3.0", "GPL-3.0-only AND MIT OR Apache-2.0"];
        check(&allowed, &["MIT AND GPL-3.0-only"]);
    }

    #[test]
    fn an_exception_is_part_of_the_licence() {
        check(&["Apache-2.0 WITH LLVM-exception OR MIT"], &["Apache-2.0 WITH LLVM-exception"]);
    }

    #[test]
    fn nonsense_is_not_allowed() {
        check(&[], &["", "(MIT", "MIT MIT", "OR MIT"]);
    }

    #[test]
    fn a_crate_outside_the_lints_fails() {
        assert_eq!(lints("p", "[package]\nname = \"p\"\n\n[lints]\nworkspace = true\n"), None);
        assert!(lints("p", "[package]\nname = \"p\"\n").is_some());
        assert!(lints("p", "[lints]\nworkspace = false\n").is_some());
        assert!(lints("p", "[lints.clippy]\nall = \"allow\"\n[a]\nworkspace = true\n").is_some());
    }

    #[test]
    fn a_dependency_needs_the_registry_and_a_licence() {
        let allowed = ["MIT".to_owned()];
        let package = |licence: Option<&str>, source: &str| Package {
            name: "p".to_owned(),
            version: "1.0.0".to_owned(),
            manifest_path: "Cargo.toml".into(),
            license: licence.map(str::to_owned),
            source: Some(source.to_owned()),
        };
        assert_eq!(dependency(&package(Some("MIT"), REGISTRY), &allowed), None);
        for (licence, source, part) in [
            (Some("MIT"), "git+https://example.org/p", "comes from git"),
            (None, REGISTRY, "states no licence"),
            (Some("ISC"), REGISTRY, "ISC"),
        ] {
            let finding = dependency(&package(licence, source), &allowed).unwrap();
            assert!(finding.message.contains(part), "{finding}");
        }
    }
}
