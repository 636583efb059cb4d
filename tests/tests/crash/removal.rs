//! An uninstallation that is killed is finished by the next one.

use std::fs;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Result, ensure};
use netpol_lab::binaries;
use netpol_lab::node::Host;
use netpol_lab::node::strace::{Task, choose, points};
use netpol_lab::settings::{n_points, seed};

use super::N_POINTS;
use super::world::World;

/// Runs `netpol-agent uninstall` on the node, after the agent has ended.
fn uninstall(world: &mut World, task: Option<&Task>) -> Result<ExitStatus> {
    let place = world.lab.place().clone();
    let nowhere = world.lab.folder().join("nowhere");
    fs::create_dir_all(&nowhere)?;
    let agent = binaries::binary("netpol-agent")?;
    let prefix = task.map(|task| task.prefix(&world.trace_file())).unwrap_or_default();
    let mut words =
        prefix.into_iter().map(std::ffi::OsString::from).chain([agent.into_os_string()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).arg("uninstall").arg("--pin-root").arg(&place.pins);
    command.arg("--socket").arg(place.socket());
    command.arg("--conf-dir").arg(&nowhere).arg("--bin-dir").arg(&nowhere);
    command.stdout(Stdio::null()).stderr(Stdio::inherit());
    Ok(world.lab.netns(&Host::Node)?.spawn(&mut command)?.wait()?)
}

#[test]
fn an_uninstallation_that_dies_is_finished_by_the_next_one_and_no_connection_ends() -> Result<()> {
    let Some(mut world) = World::begin("crash-uninstall")? else { return Ok(()) };
    world.forget_denied();
    let expected = world.clean_shape()?;
    world.lab.take_agent()?.kill()?;
    ensure!(uninstall(&mut world, Some(&Task::Watch))?.success(), "the uninstallation failed");
    let points = points(&world.trace_file())?;
    let turn = usize::try_from(seed())?;
    for point in choose(&points, n_points(N_POINTS), turn)? {
        world.lab.start_agent()?;
        world.settle(&expected)?;
        world.lab.take_agent()?.kill()?;
        let first = uninstall(&mut world, Some(&Task::Kill(point.clone())))?;
        world.flow(&format!("after {point:?}"))?;
        world.note(usize::from(!first.success()));
        if !first.success() {
            let second = uninstall(&mut world, None)?;
            ensure!(second.success(), "after {point:?} the next uninstallation fails");
        }
        ensure!(!world.lab.place().pins.exists(), "pins are left after {point:?}");
        for (device, n_programs) in world.attached()? {
            ensure!(n_programs == [0, 0], "{n_programs:?} on {device} after {point:?}");
        }
    }
    world.end()
}
