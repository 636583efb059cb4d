//! The agent dies during ADD and DEL, and during TCX migration.

use anyhow::{Context as _, Result, ensure};
use netpol_datapath::Attaching;
use netpol_lab::node::strace::{Point, Task, choose};
use netpol_lab::node::{Lab, PodSpec};
use netpol_lab::settings::{n_points, seed};

use super::fixture::Fixture;

fn late() -> PodSpec {
    PodSpec::new("shop/late", &[("role", "client")], &[80])
}

#[test]
fn an_agent_that_dies_in_an_add_or_a_del_leaves_nothing_of_the_pod_or_all() -> Result<()> {
    let Some(mut fixture) = Fixture::begin("crash-calls")? else { return Ok(()) };
    let before = fixture.clean_shape()?;
    let tracer = fixture.trace(&Task::Watch)?;
    fixture.lab.add_pod(late())?;
    let adding = tracer.finish()?;
    let tracer = fixture.trace(&Task::Watch)?;
    fixture.lab.delete_pod("shop/late")?;
    let deleting = tracer.finish()?;
    fixture.converge(&before)?;
    let turn = usize::try_from(seed())?;
    for point in choose(&adding, n_points(3), turn)? {
        let tracer = fixture.trace(&Task::Kill(point.clone()))?;
        let added = fixture.lab.add_pod(late());
        drop(tracer);
        let has_died = fixture.lab.has_agent_ended()?;
        fixture.note(usize::from(has_died));
        match added {
            // Killed after the answer, or not at all.
            Ok(()) => fixture.lab.delete_pod("shop/late")?,
            Err(error) => {
                ensure!(has_died, error);
                fixture.lab.manifests().remove(&late().file())?;
            }
        }
        if has_died {
            fixture.recover(&point, &before)?;
        }
        fixture.converge(&before)?;
    }
    for point in choose(&deleting, n_points(2), turn)? {
        fixture.lab.add_pod(late())?;
        let tracer = fixture.trace(&Task::Kill(point.clone()))?;
        // A DEL works without an agent.
        fixture.lab.delete_pod("shop/late").with_context(|| format!("{point:?}"))?;
        let has_died = fixture.wait_for_death_or("the end of the DEL", |lab| {
            Ok(!lab.status()?.endpoints.iter().any(|endpoint| endpoint.pod.name.as_ref() == "late"))
        })?;
        drop(tracer);
        fixture.note(usize::from(has_died));
        if has_died {
            fixture.recover(&point, &before)?;
        }
        fixture.converge(&before)?;
    }
    fixture.end()
}

#[test]
fn an_agent_that_dies_during_tcx_migration_is_followed_by_one_that_finishes_it() -> Result<()> {
    if Attaching::of_this_kernel() == Attaching::Filters {
        println!("SKIP: this kernel has no TCX links");
        return Ok(());
    }
    let Some(mut fixture) = Fixture::begin("crash-filters")? else { return Ok(()) };
    fixture.clean_shape()?;
    let is_over = |lab: &Lab| Ok(lab.status()?.n_awaiting_migration == Some(0));
    let mut points: Vec<Point> = Vec::new();
    let n_points = n_points(2);
    let turn = usize::try_from(seed())?;
    for round in 0.. {
        let point = if round == 0 {
            None
        } else {
            let chosen = choose(&points, n_points, turn)?;
            let Some(point) = chosen.get(round - 1) else { break };
            Some(point.clone())
        };
        fixture.lab.add_pod(late())?;
        let streams = fixture.allow_too("shop/late")?;
        let tracer = fixture.trace(&point.clone().map_or(Task::Watch, Task::Kill))?;
        let has_died = fixture.wait_for_death_or("links", is_over)?;
        match point {
            None => points = tracer.finish()?,
            Some(point) => {
                drop(tracer);
                fixture.note(usize::from(has_died));
                if has_died {
                    fixture.flow("without an agent")?;
                    fixture.lab.start_agent()?;
                    fixture.wait_for_death_or("links", is_over)?;
                    for (device, n_programs) in fixture.attached()? {
                        let is_fine = n_programs.into_iter().all(|n| n <= 1);
                        ensure!(is_fine, "{n_programs:?} programs on {device} after {point:?}");
                    }
                }
            }
        }
        fixture.clean_shape()?;
        for mut stream in streams {
            stream.wait_for_answers(10)?;
            let report = stream.finish()?;
            ensure!(report.error.is_none() && report.n_missing() == 0, "{report:?}");
        }
        fixture.lab.delete_pod("shop/late")?;
    }
    fixture.end()
}
