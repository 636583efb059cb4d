//! Programs of the harness that commands become.

use std::{env, os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{privilege::Privilege, shell, workspace::Workspace};

/// Where cargo puts a program of the profile with this folder.
///
/// # Errors
/// Cargo can't read the workspace.
pub(crate) fn path(folder: &str, name: &str) -> Result<PathBuf> {
    Ok(Workspace::read()?.target_directory.join(folder).join(name))
}

/// The program as a command that runs as root.
///
/// # Errors
/// Neither is this user root nor is there sudo.
pub(crate) fn as_root(folder: &str, name: &str) -> Result<Command> {
    let path = path(folder, name)?;
    let path = path.to_str().context("the target folder's name is not UTF-8")?;
    let Some(command) = Privilege::detect().command(path) else {
        bail!("{name} makes network namespaces or loads eBPF programs: it needs root or sudo");
    };
    Ok(command)
}

/// Becomes the program, in the user's folder, with what follows the name of our own command appended to its arguments.
///
/// # Errors
/// It could not be started.
pub(crate) fn become_it(command: &mut Command) -> Result<()> {
    command.current_dir(env::current_dir()?).args(env::args_os().skip(2));
    Err(command.exec()).with_context(|| format!("starting `{}`", shell::described(command)))
}
