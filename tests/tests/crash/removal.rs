//! The uninstallation dies, and the next one finishes it.

use std::fs;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Result, ensure};
use netpol_lab::binaries;
use netpol_lab::node::Host;
use netpol_lab::node::strace::{Task, choose, points};
use netpol_lab::settings::{n_points, seed};
use netpol_netlink::ExitGuard;

use super::N_POINTS;
use super::fixture::Fixture;

/// Runs `netpol-agent uninstall` on the node, after the agent has ended.
fn uninstall(fixture: &mut Fixture, task: Option<&Task>) -> Result<ExitStatus> {
    let config = fixture.lab.agent_config().clone();
    let nowhere = fixture.lab.folder().join("nowhere");
    fs::create_dir_all(&nowhere)?;
    let agent = binaries::binary("netpol-agent")?;
    let prefix = task.map(|task| task.prefix(&fixture.trace_file())).unwrap_or_default();
    let mut words =
        prefix.into_iter().map(std::ffi::OsString::from).chain([agent.into_os_string()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).arg("uninstall").arg("--pin-root").arg(&config.pins);
    command.arg("--socket").arg(config.socket());
    command.arg("--conf-dir").arg(&nowhere).arg("--bin-dir").arg(&nowhere);
    command.stdout(Stdio::null()).stderr(Stdio::inherit());
    Ok(fixture.lab.netns(&Host::Node)?.spawn(&mut command)?.wait()?)
}

#[test]
fn an_uninstallation_that_dies_is_finished_by_the_next_one_and_no_connection_ends() -> Result<()> {
    let Some(mut fixture) = Fixture::begin("crash-uninstall")? else { return Ok(()) };
    fixture.forget_denied();
    let expected = fixture.clean_shape()?;
    fixture.lab.take_agent()?.kill()?;
    ensure!(uninstall(&mut fixture, Some(&Task::Watch))?.success(), "the uninstallation failed");
    let points = points(&fixture.trace_file())?;
    let turn = usize::try_from(seed())?;
    for point in choose(&points, n_points(N_POINTS), turn)? {
        fixture.lab.start_agent()?;
        fixture.converge(&expected)?;
        fixture.lab.take_agent()?.kill()?;
        let first = uninstall(&mut fixture, Some(&Task::Kill(point.clone())))?;
        fixture.flow(&format!("after {point:?}"))?;
        fixture.note(usize::from(!first.success()));
        if !first.success() {
            let second = uninstall(&mut fixture, None)?;
            ensure!(second.success(), "after {point:?} the next uninstallation fails");
        }
        ensure!(!fixture.lab.agent_config().pins.exists(), "pins are left after {point:?}");
        let node = fixture.lab.netns(&Host::Node)?;
        let is_left = node.inside(|| Ok(ExitGuard::open(0)?.remove()?))?;
        ensure!(!is_left, "the nftables table is left after {point:?}");
        for (device, n_programs) in fixture.attached()? {
            ensure!(n_programs == [0, 0], "{n_programs:?} on {device} after {point:?}");
        }
    }
    fixture.end()
}
