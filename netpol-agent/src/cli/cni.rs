//! `cni install` and `cni uninstall`: our place among the CNI plugins of a node.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use netpol_terminal::{FAILED, Terminal};

use super::args::{CniArgs, CniCommand, CniInstallArgs, CniPathArgs, CniUninstallArgs};
use crate::conflist::{self, Binary, Entry, Event, Options, PLUGIN_TYPE, Report};

/// Time between two looks of `--watch`: shorter than a pod takes to start.
const INTERVAL: Duration = Duration::from_millis(500);

/// Changes the node as the arguments say.
pub(super) fn run(args: CniArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let CniArgs { command } = args;
    match command {
        CniCommand::Install(args) => install(args, terminal),
        CniCommand::Uninstall(args) => uninstall(args, terminal),
    }
}

fn install(args: CniInstallArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let CniInstallArgs { place, socket, watch } = args;
    let CniPathArgs { conf_dir, bin_dir, plugin } = place;
    let plugin = plugin_or_default(plugin)?;
    let entry = Entry { socket: absolute(&socket)? };
    if watch {
        let options = Options { conf_dir, bin_dir, plugin, entry, interval: INTERVAL };
        conflist::watch(&options, &stop()?, &mut |event| tell(event, terminal));
        return Ok(0);
    }
    tell_binary(&conflist::install_binary(&plugin, &bin_dir)?, terminal)?;
    let Report { steps, problems, file } = conflist::install(&conf_dir, &entry)?;
    for step in steps {
        writeln!(terminal.stdout, "{step}")?;
    }
    for problem in problems {
        terminal.complain(&format_args!("{:#}", anyhow::Error::new(problem)));
    }
    let Some(file) = file else { return Ok(FAILED) };
    writeln!(terminal.stdout, "netpol-cni is in {}", file.display())?;
    Ok(0)
}

fn uninstall(args: CniUninstallArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let CniUninstallArgs { place } = args;
    let conf_dir = place.conf_dir.clone();
    let (n_changes, problems) = take_out(place, terminal)?;
    for problem in &problems {
        terminal.complain(&format_args!("{problem:#}"));
    }
    if !problems.is_empty() {
        return Ok(FAILED);
    }
    if n_changes == 0 {
        writeln!(terminal.stdout, "nothing of netpol is in {}", conf_dir.display())?;
    }
    Ok(0)
}

/// Takes out our entry and the plugin: as much as it can. Returns how much was changed, and what stands in the way.
pub(super) fn take_out(
    place: CniPathArgs,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<(usize, Vec<anyhow::Error>)> {
    let CniPathArgs { conf_dir, bin_dir, plugin } = place;
    let mut problems: Vec<anyhow::Error> = Vec::new();
    let mut n_changes = 0_usize;
    match conflist::uninstall(&conf_dir) {
        Ok(Report { steps, problems: found, file: _ }) => {
            for step in steps {
                n_changes += 1;
                writeln!(terminal.stdout, "{step}")?;
            }
            problems.extend(found.into_iter().map(Into::into));
        }
        Err(problem) => problems.push(problem.into()),
    }
    if problems.is_empty() {
        let binary = plugin_or_default(plugin)
            .and_then(|plugin| Ok(conflist::uninstall_binary(&plugin, &bin_dir)?));
        match binary {
            Ok(Binary::Unchanged(_)) => {}
            Ok(change) => {
                n_changes += 1;
                tell_binary(&change, terminal)?;
            }
            Err(problem) => problems.push(problem),
        }
    } else {
        let kept = bin_dir.join(PLUGIN_TYPE);
        terminal.complain(&format_args!("{} stays: a configuration may need it", kept.display()));
    }
    Ok((n_changes, problems))
}

fn tell(event: Event, terminal: &mut Terminal<'_>) {
    // A reader of the log that went away must not end the watch.
    match event {
        Event::Binary(binary) => drop(tell_binary(&binary, terminal)),
        Event::Step(step) => drop(writeln!(terminal.stdout, "{step}")),
        Event::InPlace(file) => {
            drop(writeln!(terminal.stdout, "netpol-cni is in {}", file.display()));
        }
        Event::Problem(problem) => {
            terminal.complain(&format_args!("{:#}", anyhow::Error::new(problem)));
        }
    }
    drop(terminal.stdout.flush());
}

fn tell_binary(binary: &Binary, terminal: &mut Terminal<'_>) -> std::io::Result<()> {
    match binary {
        Binary::Copied(path) => writeln!(terminal.stdout, "{}: copied", path.display()),
        Binary::Removed(path) => writeln!(terminal.stdout, "{}: removed", path.display()),
        Binary::Unchanged(_) => Ok(()),
    }
}

/// The plugin beside this program, where the image and a release have it.
fn plugin_or_default(plugin: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(plugin) = plugin {
        return Ok(plugin);
    }
    let program = std::env::current_exe().context("finding netpol-cni beside this program")?;
    Ok(program.with_file_name(PLUGIN_TYPE))
}

/// The plugin runs in any directory.
fn absolute(socket: &Path) -> anyhow::Result<String> {
    match socket.to_str() {
        Some(text) if socket.is_absolute() => Ok(text.to_owned()),
        _ => bail!("--socket {} must be an absolute path in UTF-8", socket.display()),
    }
}

/// Loses its sender at SIGTERM or SIGINT. As the first process of a container this program would not end otherwise.
pub(super) fn stop() -> anyhow::Result<mpsc::Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let (sender, receiver) = mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("starting the async runtime")?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        drop(sender);
    });
    Ok(receiver)
}
