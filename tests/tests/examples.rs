//! The policies of `deploy/examples` are valid, have no findings, and begin with an explanation.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::{Result, ensure};
use netpol_lab::demo;
use netpol_policy::lint::{Level, Options, Scope, lint};
use netpol_policy::manifests;
use netpol_policy::model::Object;
use netpol_policy::store::{ClusterState, Delta};

/// The examples, by file.
fn examples() -> Result<Vec<(PathBuf, String)>> {
    let mut examples = Vec::new();
    for entry in std::fs::read_dir(demo::examples())? {
        let path = entry?.path();
        // A folder holds an example of `netpol test`.
        if path.is_dir() || path.ends_with(demo::PODS) {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        examples.push((path, text));
    }
    ensure!(!examples.is_empty(), "there are no examples");
    Ok(examples)
}

#[test]
fn every_example_is_one_valid_policy() -> Result<()> {
    for (path, _) in examples()? {
        let read = manifests::read(std::slice::from_ref(&path), &mut std::io::empty());
        ensure!(read.findings.is_empty(), "{:?}", read.findings);
        let policies = read.objects.iter().map(|sourced| &sourced.object);
        ensure!(policies.clone().count() == 1, "{} has several objects", path.display());
        for policy in policies {
            ensure!(matches!(policy, Object::Policy(_)), "{} is no policy", path.display());
        }
    }
    Ok(())
}

#[test]
fn no_example_has_lint_findings() -> Result<()> {
    for (path, _) in examples()? {
        let mut state = ClusterState::default();
        for sourced in manifests::read(&[path], &mut std::io::empty()).objects {
            drop(state.apply(Delta::Upsert(sourced.object)));
        }
        let findings: Vec<_> = lint(&state, &Options::new(Scope::Partial))
            .into_iter()
            .filter(|finding| finding.level >= Level::Warning)
            .collect();
        ensure!(findings.is_empty(), "{findings:?}");
    }
    Ok(())
}

#[test]
fn every_example_begins_with_a_comment() -> Result<()> {
    for (path, text) in examples()? {
        ensure!(text.starts_with("# "), "{} begins without a comment", path.display());
    }
    Ok(())
}
