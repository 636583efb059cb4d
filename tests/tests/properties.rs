//! Laws of generated clusters: all oracles agree.
//!
//! `NETPOL_CASES` sets the number of clusters, `NETPOL_SEED` the seed. A failure prints the shrunk case as lines for a file in
//! `tests/regressions`.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use netpol_lab::case::Case;
use netpol_lab::generator::{self, features::Census};
use netpol_lab::law;
use netpol_lab::oracle;
use netpol_lab::oracles::{Oracles, read};
use netpol_lab::settings;
use serde_json::Value;

/// Default number of clusters, with about 3,000 cases: some clusters have several states.
const N_CLUSTERS: usize = 2_120;

/// Compares all oracles on these cases, which are one sequence or a single case.
fn check(oracles: &mut Oracles, cases: &[Case]) -> Result<()> {
    oracles.begin();
    let mut found = Vec::new();
    for case in cases {
        found.extend(oracles.ask(case)?.iter().map(|found| format!("{}: {found}", case.name)));
    }
    ensure!(found.is_empty(), "oracles disagree:\n{}", found.join("\n"));
    Ok(())
}

fn check_generated(oracles: Oracles, n_clusters: usize) -> Result<()> {
    let oracles = RefCell::new(oracles);
    law::check(n_clusters, generator::clusters(), |cases, _| {
        check(&mut oracles.borrow_mut(), cases)
    })
}

#[test]
fn all_oracles_agree_on_generated_cases() -> Result<()> {
    check_generated(Oracles::default(), settings::n_cases(N_CLUSTERS))
}

mod privileged {
    use netpol_datapath::simulation;
    use netpol_lab::privilege::{Need, met};
    use netpol_policy::simulate::Engine;

    use super::*;

    #[test]
    fn the_kernel_agrees_with_all_oracles_on_generated_cases() -> Result<()> {
        if !met(&[Need::Root]) {
            return Ok(());
        }
        let engines = [("reference", Engine::Reference), ("kernel", simulation::engine()?)];
        check_generated(Oracles::new(engines), settings::n_cases(N_CLUSTERS) / 10)
    }
}

#[test]
fn all_oracles_agree_on_past_regressions() -> Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/regressions");
    let mut n_files = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let cases: Vec<Case> =
            text.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("a case")?;
        for cases in sequences(&cases) {
            check(&mut Oracles::default(), cases).with_context(|| path.display().to_string())?;
        }
        n_files += 1;
    }
    ensure!(n_files > 0, "{folder} is empty");
    Ok(())
}

/// Groups the cases of a sequence.
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

/// Checks a law of single policies, for half as many clusters.
fn check_policies(law: impl Fn(&Value) -> Result<()>) -> Result<()> {
    law::check(settings::n_cases(N_CLUSTERS / 2), generator::clusters(), |cases, _| {
        let objects = cases.iter().flat_map(|case| &case.objects);
        objects.filter(|object| object["kind"] == "NetworkPolicy").try_for_each(&law)
    })
}

#[test]
fn a_policy_has_a_diagnostic_exactly_when_the_api_server_refuses_it() -> Result<()> {
    check_policies(|policy| {
        let refused = oracle::problems(policy);
        let (_, diagnostics) = read(std::slice::from_ref(policy));
        if refused.is_empty() != diagnostics.is_empty() {
            bail!("refused for {refused:?}, but {diagnostics:?}: {policy}");
        }
        Ok(())
    })
}

#[test]
fn a_policy_as_written_and_as_the_api_server_stores_it_are_the_same() -> Result<()> {
    let n_policies = Cell::new(0);
    check_policies(|policy| {
        if !oracle::problems(policy).is_empty() {
            return Ok(());
        }
        let stored = generator::stored(policy);
        let [(written, _), (kept, _)] =
            [policy, &stored].map(|policy| read(std::slice::from_ref(policy)));
        ensure!(written == kept, "{policy} is not {stored}:\n{written:?}\n{kept:?}");
        ensure!(generator::stored(&stored) == stored, "{stored} is defaulted twice");
        n_policies.set(n_policies.get() + 1);
        Ok(())
    })?;
    ensure!(n_policies.get() > 0, "no policy was tried");
    Ok(())
}
