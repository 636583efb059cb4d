//! Programs of the harness, which some commands execute in place of this process.

use std::{env, os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{privilege::Privilege, shell, workspace::Workspace};

/// The path of a program in this profile folder.
///
/// # Errors
/// Cargo can't read the workspace.
pub(crate) fn path(folder: &str, name: &str) -> Result<PathBuf> {
    Ok(Workspace::read()?.target_directory.join(folder).join(name))
}

/// The program as a command that runs as root.
///
/// # Errors
/// This user is not root and there is no sudo.
pub(crate) fn as_root(folder: &str, name: &str) -> Result<Command> {
    let path = path(folder, name)?;
    let path = path.to_str().context("the target folder's name is not UTF-8")?;
    let Some(command) = Privilege::detect().command(path) else {
        bail!("{name} makes network namespaces or loads eBPF programs: it needs root or sudo");
    };
    Ok(command)
}

/// Executes the program in place of this process, in the user's folder, with our own arguments after the command's name.
///
/// # Errors
/// It could not be started.
pub(crate) fn become_it(command: &mut Command) -> Result<()> {
    command.current_dir(env::current_dir()?).args(env::args_os().skip(2));
    Err(command.exec()).with_context(|| format!("starting `{}`", shell::described(command)))
}
