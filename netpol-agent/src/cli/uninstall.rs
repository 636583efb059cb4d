//! `uninstall`: removes netpol from a node.

use std::fs;
use std::io::{self, ErrorKind};

use super::args::UninstallArgs;
use super::cni;
use crate::agent::{self, state_files};
use crate::cni_server;
use crate::denial;
use netpol_datapath::{Removed, uninstall};
use netpol_terminal::{FAILED, Terminal};

/// Removes everything that an agent and `cni install` have added to this node, and reports what cannot be removed.
///
/// The CNI configuration comes first, because new pods could not start once the agent's files are gone; running pods
/// stay protected meanwhile. Then the programs are removed.
pub(super) fn run(args: UninstallArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let UninstallArgs { paths, socket, pin_root, stay } = args;
    let folder = socket.parent().filter(|folder| folder.is_dir());
    // A running agent would attach everything again. The lock keeps one from starting meanwhile.
    let lock = folder.map(|_| cni_server::lock(&socket)).transpose()?;
    let lock_of_pins = pin_root.is_dir().then(|| agent::lock(&pin_root)).transpose()?;
    let (_, mut problems) = cni::remove(paths, terminal)?;
    let (Removed { n_attachments, n_maps, n_tables }, errors) = uninstall(&pin_root);
    if n_tables > 0 {
        writeln!(terminal.stdout, "nftables: table inet netpol removed")?;
    }
    writeln!(
        terminal.stdout,
        "{}: {n_attachments} programs detached, {n_maps} maps removed",
        pin_root.display()
    )?;
    problems.extend(errors.into_iter().map(Into::into));
    if let Some(folder) = folder {
        let files = state_files(&socket).into_iter().map(fs::remove_file);
        let mut outcomes: Vec<io::Result<()>> = files.collect();
        // In a container the host's folder is a mount, which cannot be removed: it stays, empty.
        outcomes.push(match fs::remove_dir(folder) {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ResourceBusy | ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                Ok(())
            }
            outcome => outcome,
        });
        for error in outcomes.into_iter().filter_map(Result::err) {
            if error.kind() != ErrorKind::NotFound {
                let context = format!("removing the files in {}", folder.display());
                problems.push(anyhow::Error::new(error).context(context));
            }
        }
    }
    drop((lock, lock_of_pins));
    let is_clean = problems.is_empty();
    for problem in problems {
        terminal.complain(&format_args!("{:#}", denial::explain(problem)));
    }
    if !is_clean {
        return Ok(FAILED);
    }
    writeln!(terminal.stdout, "nothing of netpol is left on this node")?;
    terminal.stdout.flush()?;
    if stay {
        // The sender is dropped at SIGTERM.
        cni::stop()?.recv().ok();
    }
    Ok(0)
}
