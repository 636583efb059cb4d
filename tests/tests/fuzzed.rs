//! The fuzz targets' checks, for past findings of the fuzzer, hand-written files, and random bytes.
//!
//! `cargo xtask fuzz` searches for inputs for which the checks fail.
#![forbid(unsafe_code)]

#[path = "../../fuzz/src/lib.rs"]
pub mod checks;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Number of random inputs, each a whole sequence of maps and frames.
const N_RANDOM: u32 = 256;

/// All files below a folder of this repository; none if it does not exist.
fn files(folder: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder)];
    while let Some(folder) = folders.pop().filter(|folder| folder.is_dir()) {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}

/// Checks the files in the folders, and random bytes. A regression file's name describes its bug.
fn check(folders: &[&str], check: fn(&[u8])) -> Result<()> {
    for folder in folders {
        for file in files(folder)? {
            let bytes = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            let outcome = std::panic::catch_unwind(|| check(&bytes));
            assert!(outcome.is_ok(), "it fails for {}", file.display());
        }
    }
    // The same inputs each time, because searching for others is the fuzzer's task.
    let mut runner = TestRunner::new_with_rng(
        Config { cases: N_RANDOM, failure_persistence: None, ..Config::default() },
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    runner.run(&vec(any::<u8>(), 0..4096), |bytes| {
        check(&bytes);
        Ok(())
    })?;
    Ok(())
}

#[test]
fn no_frame_and_no_maps_lead_to_a_verdict_that_contradicts_them() -> Result<()> {
    check(&["fuzz/regressions/packet"], checks::packet::check)
}

#[test]
fn network_configurations_are_understood_or_refused_with_an_error_of_the_specification()
-> Result<()> {
    check(&["fuzz/regressions/net_conf", "fuzz/seeds/net_conf"], checks::net_conf::check)
}

#[test]
fn manifests_are_compiled_or_have_findings_in_their_own_lines() -> Result<()> {
    check(&["fuzz/regressions/manifests", "deploy", "tests/scenarios"], checks::manifests::check)
}
