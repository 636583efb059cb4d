//! Laws over generated clusters: all judges agree.
//!
//! `NETPOL_CASES` sets how many cases are generated, `NETPOL_SEED` from which seed. A failure prints the case, made
//! small, as lines for a file in `tests/regressions`.

use std::fs;

use anyhow::{Context as _, Result, bail};
use netpol_tests::case::Case;
use netpol_tests::generator::{self, features::Census};
use netpol_tests::oracle;
use netpol_tests::panel::{Panel, read};
use netpol_tests::settings;
use netpol_tests::shrink::shrink;

/// Asks all judges about these cases, which are one sequence or of none.
fn check(cases: &[Case]) -> Result<()> {
    let found = disagreements(cases)?;
    if found.is_empty() {
        return Ok(());
    }
    let small = shrink(cases, &|cases| disagreements(cases).is_ok_and(|found| !found.is_empty()));
    let lines: Vec<String> = small.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    bail!(
        "judges disagree:\n{}\nmade small:\n{}\nas a case:\n{}",
        found.join("\n"),
        disagreements(&small)?.join("\n"),
        lines.join("\n")
    );
}

fn disagreements(cases: &[Case]) -> Result<Vec<String>> {
    let mut panel = Panel::default();
    let mut found = Vec::new();
    for case in cases {
        found.extend(panel.ask(case)?.iter().map(|found| format!("{}: {found}", case.name)));
    }
    Ok(found)
}

#[test]
fn all_judges_agree_on_generated_cases() -> Result<()> {
    let cases: Vec<Case> =
        generator::cases(settings::seed()).take(settings::n_cases(3000)).collect();
    let mut failures = Vec::new();
    for cases in sequences(&cases) {
        if let Err(error) = check(cases) {
            failures.push(error.to_string());
        }
        if failures.len() >= 3 {
            break;
        }
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("\n\n"));
    }
    Ok(())
}

#[test]
fn all_judges_agree_on_what_once_went_wrong() -> Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/regressions");
    let mut n_files = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let cases: Vec<Case> =
            text.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("a case")?;
        for cases in sequences(&cases) {
            check(cases).with_context(|| path.display().to_string())?;
        }
        n_files += 1;
    }
    anyhow::ensure!(n_files > 0, "{folder} is empty");
    Ok(())
}

/// Cases that belong together.
fn sequences(cases: &[Case]) -> impl Iterator<Item = &[Case]> {
    cases.chunk_by(|one, next| one.sequence.is_some() && one.sequence == next.sequence)
}

#[test]
fn the_generator_covers_every_feature() {
    let mut census = Census::default();
    for case in generator::cases(1).take(500) {
        census.add(&case);
    }
    assert_eq!(census.missing(), Vec::<&str>::new());
}

#[test]
fn a_policy_has_a_diagnostic_exactly_when_the_api_server_refuses_it() -> Result<()> {
    for case in generator::cases(settings::seed()).take(settings::n_cases(1500)) {
        for policy in case.objects.iter().filter(|object| object["kind"] == "NetworkPolicy") {
            let refused = oracle::problems(policy);
            let (_, diagnostics) = read(std::slice::from_ref(policy));
            if refused.is_empty() != diagnostics.is_empty() {
                bail!("refused for {refused:?}, but {diagnostics:?}: {policy}");
            }
        }
    }
    Ok(())
}
