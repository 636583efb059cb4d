//! The test programs and their tests.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::Test;
use crate::image::{Platform, Tools};
use crate::{build, shell, workspace::Workspace};

/// The test programs for eBPF programs and maps, and for containers under a security module.
pub(super) const USUAL: [&str; 2] = ["confinement", "datapath"];
/// Those, and the ones with traffic of pods. Without KVM some of these are too slow for their own deadlines.
pub(super) const ALL: [&str; 5] = ["confinement", "datapath", "netns", "services", "cni"];
/// What runs on another processor, because its test programs take longer to compile than everything else: it loads the eBPF
/// programs and compares their costs.
pub(super) const FOREIGN: [&str; 1] = ["verify"];

/// Programs that the tests run.
const OWN_PROGRAMS: [&str; 3] = ["netpol-agent", "netpol-cni", "netpol-probe"];

/// The programs that cargo has built.
#[derive(Debug)]
pub(super) struct Programs {
    /// The test programs by name.
    pub(super) tests: BTreeMap<String, PathBuf>,
    /// The programs that they run from the same folder.
    pub(super) own: Vec<PathBuf>,
}

/// A message of cargo about an artifact.
#[derive(Deserialize)]
struct Artifact {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Builds the test programs for this machine's processor, and the programs that they run.
///
/// # Errors
/// The build failed.
pub(super) fn build(wanted: &[&str]) -> Result<Programs> {
    build::programs()?;
    let build = || {
        let mut cargo = shell::cargo(["test", "--no-run", "-p", "netpol-tests"]);
        cargo.args(wanted.iter().flat_map(|name| ["--test", name]));
        cargo
    };
    // Once with errors for people, and once more for the paths.
    shell::step("building the test programs", &mut build())?;
    let messages = shell::stdout(build().args(["--message-format", "json"]))?;
    let folder = Workspace::read()?.target_directory.join("debug");
    Ok(Programs {
        tests: test_programs(&messages)?,
        own: OWN_PROGRAMS.map(|name| folder.join(name)).to_vec(),
    })
}

/// Builds the programs of [`FOREIGN`] for another processor.
///
/// # Errors
/// A tool could not be installed, or the build failed.
pub(super) fn build_for(platform: Platform) -> Result<Programs> {
    let tools = Tools::ensure(platform)?;
    let mut build = tools.cargo(&["build", "-p", "netpol-lab"], Vec::new());
    build.args(FOREIGN.iter().flat_map(|name| ["--bin", name]));
    shell::step(&format!("building the programs for {}", platform.name()), &mut build)?;
    let folder = tools.programs("debug");
    Ok(Programs { tests: BTreeMap::new(), own: FOREIGN.map(|name| folder.join(name)).to_vec() })
}

fn test_programs(messages: &str) -> Result<BTreeMap<String, PathBuf>> {
    let mut programs = BTreeMap::new();
    for line in messages.lines() {
        let artifact: Artifact =
            serde_json::from_str(line).context("reading what cargo has built")?;
        if let Artifact { target: Some(target), executable: Some(executable) } = artifact
            && target.kind == ["test"]
        {
            programs.insert(target.name, executable);
        }
    }
    Ok(programs)
}

/// The programs of [`FOREIGN`] as tests.
pub(super) fn foreign() -> Vec<Test> {
    FOREIGN.map(|program| Test { program: program.to_owned(), name: String::new() }).to_vec()
}

/// The tests of the test programs.
///
/// # Errors
/// A test program does not list its tests.
pub(super) fn tests(programs: &Programs) -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    for (program, file) in &programs.tests {
        let names = names(file).with_context(|| format!("listing the tests of {program}"))?;
        tests.extend(names.into_iter().map(|name| Test { program: program.clone(), name }));
    }
    Ok(tests)
}

fn names(file: &Path) -> Result<Vec<String>> {
    let list = shell::stdout(shell::command(file).args(["--list", "--format", "terse"]))?;
    Ok(list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_what_cargo_has_built() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"a"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"demo"},"executable":"/t/demo"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"datapath"},"executable":"/t/deps/datapath-1"}
{"reason":"build-finished","success":true}"#;
        let found = test_programs(messages).unwrap();
        assert_eq!(found, BTreeMap::from([("datapath".into(), "/t/deps/datapath-1".into())]));
    }
}
