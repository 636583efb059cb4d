//! `cni install` and `cni uninstall`: adds netpol-cni to the CNI plugins of a node, and removes it.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use netpol_terminal::{FAILED, Terminal};

use super::args::{CniArgs, CniCommand, CniInstallArgs, CniPathArgs, CniUninstallArgs};
use crate::conflist::{self, Binary, Entry, Event, Options, PLUGIN_TYPE, Report};
use crate::denial;

/// Interval in which `--watch` checks the directories: shorter than a pod takes to start.
const INTERVAL: Duration = Duration::from_millis(500);

/// Runs the subcommand.
pub(super) fn run(args: CniArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let CniArgs { command } = args;
    match command {
        CniCommand::Install(args) => install(args, terminal),
        CniCommand::Uninstall(args) => uninstall(args, terminal),
    }
}

fn install(args: CniInstallArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let CniInstallArgs { paths, socket, watch } = args;
    let CniPathArgs { conf_dir, bin_dir, plugin } = paths;
    let plugin = plugin_or_default(plugin)?;
    let entry = Entry { socket: absolute(&socket)? };
    if watch {
        let options = Options { conf_dir, bin_dir, plugin, entry, socket, interval: INTERVAL };
        conflist::watch(&options, &stop()?, &mut |event| show(event, terminal));
        return Ok(0);
    }
    show_binary(&conflist::install_binary(&plugin, &bin_dir)?, terminal)?;
    let Report { steps, problems, file } = conflist::install(&conf_dir, &entry)?;
    for step in steps {
        writeln!(terminal.stdout, "{step}")?;
    }
    for problem in problems {
        terminal.complain(&format_args!("{:#}", denial::explain(problem.into())));
    }
    let Some(file) = file else { return Ok(FAILED) };
    writeln!(terminal.stdout, "{}: netpol-cni is configured", file.display())?;
    Ok(0)
}

fn uninstall(args: CniUninstallArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let CniUninstallArgs { paths } = args;
    let conf_dir = paths.conf_dir.clone();
    let (n_changes, problems) = remove(paths, terminal)?;
    let is_clean = problems.is_empty();
    for problem in problems {
        terminal.complain(&format_args!("{:#}", denial::explain(problem)));
    }
    if !is_clean {
        return Ok(FAILED);
    }
    if n_changes == 0 {
        writeln!(terminal.stdout, "{}: netpol-cni is not configured", conf_dir.display())?;
    }
    Ok(0)
}

/// Removes our entry and the plugin, as far as possible. Returns the number of changes, and the errors.
pub(super) fn remove(
    paths: CniPathArgs,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<(usize, Vec<anyhow::Error>)> {
    let CniPathArgs { conf_dir, bin_dir, plugin } = paths;
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
                show_binary(&change, terminal)?;
            }
            Err(problem) => problems.push(problem),
        }
    } else {
        let kept = bin_dir.join(PLUGIN_TYPE);
        terminal
            .complain(&format_args!("{} not removed: a configuration may need it", kept.display()));
    }
    Ok((n_changes, problems))
}

fn show(event: Event, terminal: &mut Terminal<'_>) {
    // An error of the output must not end the watch.
    match event {
        Event::Binary(binary) => drop(show_binary(&binary, terminal)),
        Event::Step(step) => drop(writeln!(terminal.stdout, "{step}")),
        Event::InPlace(file) => {
            drop(writeln!(terminal.stdout, "{}: netpol-cni is configured", file.display()));
        }
        Event::Problem(problem) => {
            terminal.complain(&format_args!("{:#}", denial::explain(problem.into())));
        }
    }
    drop(terminal.stdout.flush());
}

fn show_binary(binary: &Binary, terminal: &mut Terminal<'_>) -> std::io::Result<()> {
    match binary {
        Binary::Copied(path) => writeln!(terminal.stdout, "{}: copied", path.display()),
        Binary::Removed(path) => writeln!(terminal.stdout, "{}: removed", path.display()),
        Binary::Unchanged(_) => Ok(()),
    }
}

/// The plugin in the folder of this program, as in the image and in a release.
fn plugin_or_default(plugin: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(plugin) = plugin {
        return Ok(plugin);
    }
    let program =
        std::env::current_exe().context("finding netpol-cni in the folder of this program")?;
    Ok(program.with_file_name(PLUGIN_TYPE))
}

/// The path must be absolute, because the runtime starts the plugin in any directory.
fn absolute(socket: &Path) -> anyhow::Result<String> {
    match socket.to_str() {
        Some(text) if socket.is_absolute() => Ok(text.to_owned()),
        _ => bail!("--socket {} must be an absolute path in UTF-8", socket.display()),
    }
}

/// Returns a receiver whose sender is dropped at SIGTERM or SIGINT. Without a handler, the first process of a container
/// ignores these signals.
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
