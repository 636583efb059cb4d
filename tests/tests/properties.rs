//! Laws over generated clusters: all judges agree.
//!
//! `NETPOL_CASES` sets how many cases are generated, `NETPOL_SEED` from which seed. A failure prints the case, made
//! small, as lines for a file in `tests/regressions`.

use std::cell::RefCell;
use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use netpol_tests::case::Case;
use netpol_tests::generator::{self, features::Census};
use netpol_tests::oracle;
use netpol_tests::panel::{Panel, read};
use netpol_tests::settings;
use netpol_tests::shrink::shrink;

/// Asks all judges about these cases, which are one sequence or of none.
fn check(panel: &mut Panel, cases: &[Case]) -> Result<()> {
    let found = disagreements(panel, cases)?;
    if found.is_empty() {
        return Ok(());
    }
    let panel = RefCell::new(panel);
    let fails = |cases: &[Case]| {
        disagreements(*panel.borrow_mut(), cases).is_ok_and(|found| !found.is_empty())
    };
    let small = shrink(cases, &fails);
    let lines: Vec<String> = small.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    let of_small = disagreements(*panel.borrow_mut(), &small)?;
    bail!(
        "judges disagree:\n{}\nmade small:\n{}\nas a case:\n{}",
        found.join("\n"),
        of_small.join("\n"),
        lines.join("\n")
    );
}

fn disagreements(panel: &mut Panel, cases: &[Case]) -> Result<Vec<String>> {
    panel.begin();
    let mut found = Vec::new();
    for case in cases {
        found.extend(panel.ask(case)?.iter().map(|found| format!("{}: {found}", case.name)));
    }
    Ok(found)
}

/// Asks about as many generated cases, and stops at the third failure.
fn check_generated(panel: &mut Panel, n_cases: usize) -> Result<()> {
    let cases: Vec<Case> = generator::cases(settings::seed()).take(n_cases).collect();
    let mut failures = Vec::new();
    for cases in sequences(&cases) {
        if let Err(error) = check(panel, cases) {
            failures.push(error.to_string());
        }
        if failures.len() >= 3 {
            break;
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}

#[test]
fn all_judges_agree_on_generated_cases() -> Result<()> {
    check_generated(&mut Panel::default(), settings::n_cases(3000))
}

mod privileged {
    use netpol_datapath::simulation;
    use netpol_policy::simulate::Engine;
    use netpol_tests::privilege::{Need, met};

    use super::*;

    #[test]
    fn the_kernel_agrees_with_all_judges_on_generated_cases() -> Result<()> {
        if !met(&[Need::Root]) {
            return Ok(());
        }
        let engines = [("reference", Engine::Reference), ("kernel", simulation::engine()?)];
        check_generated(&mut Panel::new(engines), settings::n_cases(3000) / 10)
    }
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
            check(&mut Panel::default(), cases).with_context(|| path.display().to_string())?;
        }
        n_files += 1;
    }
    ensure!(n_files > 0, "{folder} is empty");
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

#[test]
fn a_policy_as_written_and_as_the_api_server_stores_it_are_the_same() -> Result<()> {
    let mut n_policies = 0;
    for case in generator::cases(settings::seed()).take(settings::n_cases(1500)) {
        for policy in case.objects.iter().filter(|object| object["kind"] == "NetworkPolicy") {
            if !oracle::problems(policy).is_empty() {
                continue;
            }
            let stored = generator::stored(policy);
            let [(written, _), (kept, _)] =
                [policy, &stored].map(|policy| read(std::slice::from_ref(policy)));
            ensure!(written == kept, "{policy} is not {stored}:\n{written:?}\n{kept:?}");
            ensure!(generator::stored(&stored) == stored, "{stored} is defaulted twice");
            n_policies += 1;
        }
    }
    ensure!(n_policies > 0, "no policy was tried");
    Ok(())
}
