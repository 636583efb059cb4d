//! Pods come and go while the agent dies, and filters become links.

use anyhow::{Context as _, Result, ensure};
use netpol_datapath::Attaching;
use netpol_tests::lab::strace::{Point, Task, choose};
use netpol_tests::lab::{Lab, PodSpec};
use netpol_tests::settings::{n_points, seed};

use super::world::World;

fn late() -> PodSpec {
    PodSpec::new("shop/late", &[("role", "client")], &[80])
}

#[test]
fn an_agent_that_dies_in_an_add_or_a_del_leaves_nothing_of_the_pod_or_all() -> Result<()> {
    let Some(mut world) = World::begin("crash-calls")? else { return Ok(()) };
    let before = world.clean_shape()?;
    let tracer = world.trace(&Task::Watch)?;
    world.lab.add_pod(late())?;
    let adding = tracer.finish()?;
    let tracer = world.trace(&Task::Watch)?;
    world.lab.delete_pod("shop/late")?;
    let deleting = tracer.finish()?;
    world.settle(&before)?;
    let turn = usize::try_from(seed())?;
    for point in choose(&adding, n_points(3), turn)? {
        let tracer = world.trace(&Task::Kill(point.clone()))?;
        let added = world.lab.add_pod(late());
        drop(tracer);
        let has_died = world.lab.has_agent_ended()?;
        world.note(usize::from(has_died));
        match added {
            // If it was killed, then after the answer.
            Ok(()) => world.lab.delete_pod("shop/late")?,
            Err(error) => {
                ensure!(has_died, error);
                world.lab.manifests().remove(&late().file())?;
            }
        }
        if has_died {
            world.recover(&point, &before)?;
        }
        world.settle(&before)?;
    }
    for point in choose(&deleting, n_points(2), turn)? {
        world.lab.add_pod(late())?;
        let tracer = world.trace(&Task::Kill(point.clone()))?;
        // A DEL works without an agent.
        world.lab.delete_pod("shop/late").with_context(|| format!("{point:?}"))?;
        let has_died = world.wait_for_death_or("the end of the DEL", |lab| {
            Ok(!lab.status()?.endpoints.iter().any(|endpoint| endpoint.pod.name.as_ref() == "late"))
        })?;
        drop(tracer);
        world.note(usize::from(has_died));
        if has_died {
            world.recover(&point, &before)?;
        }
        world.settle(&before)?;
    }
    world.end()
}

#[test]
fn an_agent_that_dies_while_filters_become_links_is_followed_by_one_that_finishes_it() -> Result<()>
{
    if Attaching::of_this_kernel() == Attaching::Filters {
        println!("SKIP: this kernel has no TCX links");
        return Ok(());
    }
    let Some(mut world) = World::begin("crash-filters")? else { return Ok(()) };
    world.clean_shape()?;
    let is_over = |lab: &Lab| Ok(lab.status()?.n_on_filters == Some(0));
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
        world.lab.add_pod(late())?;
        let streams = world.allow_too("shop/late")?;
        let tracer = world.trace(&point.clone().map_or(Task::Watch, Task::Kill))?;
        let has_died = world.wait_for_death_or("links", is_over)?;
        match point {
            None => points = tracer.finish()?,
            Some(point) => {
                drop(tracer);
                world.note(usize::from(has_died));
                if has_died {
                    world.flow("without an agent")?;
                    world.lab.start_agent()?;
                    world.wait_for_death_or("links", is_over)?;
                    for (device, n_programs) in world.attached()? {
                        let is_fine = n_programs.into_iter().all(|n| n <= 1);
                        ensure!(is_fine, "{n_programs:?} programs on {device} after {point:?}");
                    }
                }
            }
        }
        world.clean_shape()?;
        for mut stream in streams {
            stream.wait_for_answers(10)?;
            let report = stream.finish()?;
            ensure!(report.error.is_none() && report.n_missing() == 0, "{report:?}");
        }
        world.lab.delete_pod("shop/late")?;
    }
    world.end()
}
