//! The plugin's binary in the directory where runtimes look for plugins.
//!
//! In: the binary that this installation brings. Out: the same beside the other plugins.
//! Must not: remove a binary that this installation did not bring.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::folder::{Looks, lock, metadata, remove, replace};
use super::{Error, PLUGIN_TYPE};

/// Everybody may run it, its owner may change it.
const MODE: u32 = 0o755;

/// What became of the binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binary {
    /// It is there now.
    Copied(PathBuf),
    /// It is gone now.
    Removed(PathBuf),
    /// It was as wanted.
    Unchanged(PathBuf),
}

/// Copies the plugin into the directory, unless the same is there. A plugin that runs just now goes on undisturbed.
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
    replace(&path, &content, &Looks { mode: MODE, owner: None })?;
    Ok(Binary::Copied(path))
}

/// Removes the plugin from the directory if it is the one that `plugin` is.
///
/// # Errors
/// [`Error::Foreign`] if it is another one. [`Error::List`], [`Error::Lock`], [`Error::Read`], [`Error::Remove`].
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

/// What tells a copy from another without reading it: place on the disk, length in bytes, time of the last change
/// (seconds and nanoseconds), mode. None if there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trace([i128; 4]);

/// Looks at the binary in the directory.
pub(super) fn trace(directory: &Path) -> Option<Trace> {
    let metadata = fs::metadata(directory.join(PLUGIN_TYPE)).ok()?;
    let changed = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
    Some(Trace([metadata.ino().into(), metadata.len().into(), changed, metadata.mode().into()]))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}
