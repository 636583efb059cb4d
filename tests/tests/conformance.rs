//! Every scenario's table compared with the independent oracle, the reference semantics, the compiled maps, and the kernel.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use netpol_lab::scenario::{self, Reasons, Scenario};
use netpol_lab::wire::{SharedMaps, Wire};

/// Checks every scenario with an oracle.
fn check(oracle: &mut dyn FnMut(&Scenario) -> Result<Vec<String>>) -> Result<()> {
    let mut differences = Vec::new();
    let scenarios = scenario::all()?;
    ensure!(!scenarios.is_empty(), "there are no scenarios");
    for scenario in &scenarios {
        let found = oracle(scenario).with_context(|| scenario.name.clone())?;
        differences.extend(found.into_iter().map(|found| format!("{}: {found}", scenario.name)));
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

#[test]
fn scenarios_are_as_the_oracle_says() -> Result<()> {
    check(&mut scenario::check_oracle)
}

#[test]
fn scenarios_are_as_the_reference_says() -> Result<()> {
    check(&mut scenario::check_reference)
}

#[test]
fn scenarios_are_as_the_compiled_maps_say() -> Result<()> {
    check(&mut |scenario| {
        scenario::check_wire(scenario, &mut Wire::new(SharedMaps::memory()), Reasons::Count)
    })
}

#[test]
fn a_later_state_is_as_from_scratch() -> Result<()> {
    check(&mut |scenario| {
        let mut differences = Vec::new();
        for (index, change) in scenario.steps.iter().enumerate() {
            let alone = scenario.alone(index).with_context(|| change.about.clone())?;
            let mut wire = Wire::new(SharedMaps::memory());
            differences.extend(scenario::check_wire(&alone, &mut wire, Reasons::Ignore)?);
        }
        Ok(differences)
    })
}

#[test]
fn the_page_on_conformance_names_every_scenario_and_nothing_that_is_not_there() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/conformance.md"))?;
    let quoted: Vec<&str> = page.split('`').skip(1).step_by(2).collect();
    for scenario in scenario::all()? {
        let file = format!("tests/scenarios/{}.yaml", scenario.name);
        ensure!(quoted.contains(&file.as_str()), "docs/conformance.md does not name {file}");
        ensure!(page.contains(&scenario.about), "docs/conformance.md describes {file} differently");
    }
    let is_path = |text: &&&str| text.contains('/') && !text.contains(' ');
    for path in quoted.iter().filter(is_path) {
        ensure!(root.join(path).exists(), "docs/conformance.md names {path}, which is not there");
    }
    for pair in quoted.windows(2) {
        let [file, test] = pair else { continue };
        let is_name =
            test.contains('_') && test.chars().all(|c| c == '_' || c.is_ascii_lowercase());
        let is_source = Path::new(file).extension().is_some_and(|extension| extension == "rs");
        if is_source && is_name {
            let source = fs::read_to_string(root.join(file))?;
            ensure!(source.contains(&format!("fn {test}(")), "{file} has no test {test}");
        }
    }
    Ok(())
}

mod privileged {
    use netpol_datapath::simulation;
    use netpol_lab::privilege::{Need, met};
    use netpol_policy::simulate::Engine;

    use super::*;

    #[test]
    fn scenarios_are_as_the_kernel_says() -> Result<()> {
        if !met(&[Need::Root]) {
            return Ok(());
        }
        let Engine::Datapath(datapath) = simulation::engine()? else { return Ok(()) };
        let mut wire = Wire::new(SharedMaps::other(datapath));
        check(&mut |scenario| {
            wire.cluster.forget_objects();
            scenario::check_wire(scenario, &mut wire, Reasons::Ignore)
        })
    }
}
