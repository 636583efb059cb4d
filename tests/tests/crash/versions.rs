//! The agent dies while it takes over from another version.

use std::fs;

use anyhow::{Context as _, Result};
use netpol_common::maps::ABI_VERSION;
use netpol_lab::node::strace::{Point, Task, choose, points};
use netpol_lab::settings::{n_points, seed};

use super::N_POINTS;
use super::fixture::{Fixture, Shape};

/// Renames the agent's pins to those of another version, and starts an agent that takes over. Returns whether it has died.
fn migration(fixture: &mut Fixture, task: &Task, expected: &Shape) -> Result<bool> {
    fixture.lab.take_agent()?.kill()?;
    let pins = fixture.lab.agent_config().pins.clone();
    let (own, other) = (format!("v{ABI_VERSION}"), format!("v{}", ABI_VERSION + 1));
    fs::rename(pins.join(own), pins.join(other)).context("giving the pins another number")?;
    fixture.lab.set_prefix(task.prefix(&fixture.trace_file()));
    fixture.lab.begin_agent()?;
    fixture.lab.set_prefix(Vec::new());
    let versions = expected.clone();
    fixture.wait_for_death_or("the upgrade", |lab| {
        let is_one = fs::read_dir(&lab.agent_config().pins)?.count() == 1;
        Ok(is_one && versions.has_links_of(lab)?)
    })
}

#[test]
fn an_agent_that_dies_while_it_takes_over_from_another_version_is_followed_by_one_that_finishes_it()
-> Result<()> {
    let Some(mut fixture) = Fixture::begin("crash-version")? else { return Ok(()) };
    let expected = fixture.clean_shape()?;
    migration(&mut fixture, &Task::Watch, &expected)?;
    fixture.converge(&expected)?;
    let points = after_the_load(points(&fixture.trace_file())?);
    let turn = usize::try_from(seed())?;
    for point in choose(&points, n_points(N_POINTS), turn)? {
        let has_died = migration(&mut fixture, &Task::Kill(point.clone()), &expected)?;
        fixture.note(usize::from(has_died));
        if has_died {
            fixture.recover(&point, &expected)?;
        } else {
            fixture.converge(&expected)?;
        }
    }
    fixture.end()
}

/// Skips the points before the first pin of this version, when only private maps and programs exist.
fn after_the_load(points: Vec<Point>) -> Vec<Point> {
    let is_pin = |point: &Point| point.kind.ends_with("BPF_OBJ_PIN");
    let first = points.iter().position(is_pin).unwrap_or_default();
    points.into_iter().skip(first).collect()
}
