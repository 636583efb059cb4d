//! The plugin's binary in the runtime's directory of plugins.
//!
//! In: the binary of this installation. Out: its copy in the directory, or its removal.
//! Must not: remove a binary that is not the one of this installation.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::error::Error;
use super::folder::{Permissions, lock, metadata, remove, replace};
use netpol_cni::conflist::PLUGIN_TYPE;

/// Executable by everybody, writable by the owner.
const MODE: u32 = 0o755;

/// The change of the binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binary {
    /// It was copied.
    Copied(PathBuf),
    /// It was removed.
    Removed(PathBuf),
    /// No change was needed.
    Unchanged(PathBuf),
}

/// Copies the plugin into the directory, unless an equal one is there. A running plugin is not disturbed, because the file is
/// replaced and not written.
///
/// # Errors
/// [`Error::List`], [`Error::Lock`]: the directory. [`Error::Read`], [`Error::Write`], [`Error::Remove`]: a file.
pub fn install(plugin: &Path, directory: &Path) -> Result<Binary, Error> {
    let content = read(plugin)?;
    let _lock = lock(directory)?;
    let path = directory.join(PLUGIN_TYPE);
    if let Some(metadata) = metadata(&path)?
        && metadata.is_file()
        && metadata.permissions().mode() & 0o7777 == MODE
        && read(&path)? == content
    {
        return Ok(Binary::Unchanged(path));
    }
    replace(&path, &content, &Permissions { mode: MODE, owner: None })?;
    Ok(Binary::Copied(path))
}

/// Removes the plugin from the directory if it is equal to `plugin`.
///
/// # Errors
/// [`Error::Foreign`] if it differs. [`Error::List`], [`Error::Lock`], [`Error::Read`], [`Error::Remove`].
pub fn uninstall(plugin: &Path, directory: &Path) -> Result<Binary, Error> {
    let _lock = lock(directory)?;
    let path = directory.join(PLUGIN_TYPE);
    if metadata(&path)?.is_none() {
        return Ok(Binary::Unchanged(path));
    }
    if read(&path)? != read(plugin)? {
        return Err(Error::Foreign { path });
    }
    remove(&path)?;
    Ok(Binary::Removed(path))
}

/// Identifies a copy without reading it: inode, length in bytes, time of the last change in nanoseconds, mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([i128; 4]);

/// The fingerprint of the binary in the directory; `None` if there is none.
pub(super) fn fingerprint(directory: &Path) -> Option<Fingerprint> {
    let metadata = fs::metadata(directory.join(PLUGIN_TYPE)).ok()?;
    let changed = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
    Some(Fingerprint([
        metadata.ino().into(),
        metadata.len().into(),
        changed,
        metadata.mode().into(),
    ]))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}
