//! Whether this process can act as root: directly, through sudo, or not at all.

use std::{ffi::OsStr, fs, os::unix::fs::MetadataExt as _, process::Command};

use crate::shell;

/// How to run a command as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// This process is root.
    Root,
    /// Through sudo, which may ask for a password.
    Sudo,
    /// Not at all.
    None,
}

impl Privilege {
    /// Detects it.
    pub(crate) fn detect() -> Self {
        // A process's entry in /proc is owned by its effective user.
        if fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0) {
            Self::Root
        } else if shell::find_program("sudo").is_some() {
            Self::Sudo
        } else {
            Self::None
        }
    }

    /// The program as a command that runs as root, or `None` when that is impossible.
    pub(crate) fn command(self, program: &str) -> Option<Command> {
        let found = shell::find_program(program)
            .map_or_else(|| program.into(), std::path::PathBuf::into_os_string);
        match self {
            Self::Root => Some(shell::command(found)),
            Self::Sudo => {
                let mut sudo = shell::command("sudo");
                sudo.arg(OsStr::new("--")).arg(found);
                Some(sudo)
            }
            Self::None => None,
        }
    }
}
