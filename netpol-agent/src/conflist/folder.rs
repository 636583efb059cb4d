//! Reads the configuration directory, and carries out plans.
//!
//! In: a directory and a plan. Out: files, each replaced atomically by a new one with the same mode and owner, and synced
//! to the disk.
//! Must not: decide on steps; that is the task of `plan`.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use super::error::Error;
use super::plan::{self, Plan, Snapshot, Step};
use netpol_cni::conflist::Entry;

/// How many plans are tried while another program changes the files.
const ATTEMPTS: usize = 5;

/// The result of an installation or removal.
#[derive(Debug, Default)]
#[must_use]
pub struct Report {
    /// The steps that were carried out, in order. Empty if no change was needed.
    pub steps: Vec<Step>,
    /// Errors in single files.
    pub problems: Vec<Error>,
    /// The file that has our entry.
    pub file: Option<PathBuf>,
}

/// Adds our entry to the file that the runtime uses.
///
/// # Errors
/// [`Error::List`], [`Error::Lock`], [`Error::Write`], [`Error::Remove`] and [`Error::Restless`]. Errors in single files are in
/// the report.
pub fn install(directory: &Path, entry: &Entry) -> Result<Report, Error> {
    carry_out(directory, |snapshot| plan::install(snapshot, entry))
}

/// Removes our entry from every file, and our files from the directory.
///
/// # Errors
/// As [`install`].
pub fn uninstall(directory: &Path) -> Result<Report, Error> {
    carry_out(directory, plan::uninstall)
}

/// Whether our entry is in the directory or was before another program removed it: the copy of an original tells.
///
/// # Errors
/// [`Error::List`].
pub(super) fn was_installed(directory: &Path) -> Result<bool, Error> {
    snapshot(directory).map(|snapshot| plan::was_installed(&snapshot))
}

fn carry_out(directory: &Path, plan: impl Fn(&Snapshot) -> Plan) -> Result<Report, Error> {
    let _lock = lock(directory)?;
    let mut report = Report::default();
    for _ in 0..ATTEMPTS {
        let Plan { steps, problems, file } = plan(&snapshot(directory)?);
        report.problems = problems;
        report.file = file;
        if apply(directory, steps, &mut report.steps)? == Outcome::Done {
            return Ok(report);
        }
    }
    Err(Error::Restless { path: directory.to_owned() })
}

/// Locks the directory against other installs and uninstalls, until the file is dropped.
pub(super) fn lock(directory: &Path) -> Result<File, Error> {
    let path = || directory.to_owned();
    let file = File::open(directory).map_err(|source| Error::List { path: path(), source })?;
    file.lock().map_err(|source| Error::Lock { path: path(), source })?;
    Ok(file)
}

fn snapshot(directory: &Path) -> Result<Snapshot, Error> {
    let list = |source| Error::List { path: directory.to_owned(), source };
    let mut by_name = BTreeMap::new();
    for path in paths_in(directory).map_err(list)? {
        let Some(name) = file_name(&path) else { continue };
        if path.is_dir() {
            // A folder that cannot be listed or was removed has no plugins for the runtime either.
            for path in paths_in(&path).unwrap_or_default() {
                let Some(file) = file_name(&path) else { continue };
                if plan::is_read_in_folder(file) && !path.is_dir() {
                    by_name.extend(text_at(&path).map(|text| (format!("{name}/{file}"), text)));
                }
            }
        } else if plan::is_read(name) {
            by_name.extend(text_at(&path).map(|text| (name.to_owned(), text)));
        }
    }
    Ok(Snapshot { directory: directory.to_owned(), by_name })
}

fn paths_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
}

/// The last part of a path. No configuration has a name that is not UTF-8.
fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// The text of a file; `None` if it was removed since the directory was listed.
fn text_at(path: &Path) -> Option<io::Result<String>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => None,
        text => Some(text),
    }
}

/// Whether the steps of a plan were carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Another program has changed a file since the plan was made: the other steps are not valid any more.
    Outdated,
}

fn apply(directory: &Path, steps: Vec<Step>, taken: &mut Vec<Step>) -> Result<Outcome, Error> {
    for step in steps {
        match &step {
            Step::Backup { name, text, like } | Step::Make { name, text, from: like } => {
                let Some(like) = metadata(&directory.join(like))? else {
                    return Ok(Outcome::Outdated);
                };
                replace(&directory.join(name), text.as_bytes(), &Permissions::of(&like))?;
            }
            Step::Replace { name, expected, text, purpose: _ } => {
                if edit(&directory.join(name), expected, text)? == Outcome::Outdated {
                    return Ok(Outcome::Outdated);
                }
            }
            Step::Remove { name } => remove(&directory.join(name))?,
        }
        taken.push(step);
    }
    Ok(Outcome::Done)
}

/// Replaces a file if its text is still `expected`. If another program writes the old file in place at the same time, as `cp`
/// does, nothing is lost: the old file is read again after it was replaced.
fn edit(path: &Path, expected: &str, text: &str) -> Result<Outcome, Error> {
    // A symbolic link stays; its target is replaced.
    let path = &match fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Outdated),
        Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
    };
    let read = |source| Error::Read { path: path.clone(), source };
    let mut old = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Outdated),
        file => file.map_err(read)?,
    };
    let permissions = Permissions::of(&old.metadata().map_err(read)?);
    if text_of(&mut old).map_err(read)? != expected.as_bytes() {
        return Ok(Outcome::Outdated);
    }
    replace(path, text.as_bytes(), &permissions)?;
    let late = text_of(&mut old).map_err(read)?;
    if late != expected.as_bytes() && serde_json::from_slice::<IgnoredAny>(&late).is_ok() {
        replace(path, &late, &permissions)?;
        return Ok(Outcome::Outdated);
    }
    Ok(Outcome::Done)
}

fn text_of(file: &mut File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut text)?;
    Ok(text)
}

/// Mode and owner of a file.
pub(super) struct Permissions {
    /// The permission bits.
    pub(super) mode: u32,
    /// User and group; `None` for those of this process.
    pub(super) owner: Option<(u32, u32)>,
}

impl Permissions {
    fn of(metadata: &Metadata) -> Self {
        Self {
            mode: metadata.permissions().mode() & 0o7777,
            owner: Some((metadata.uid(), metadata.gid())),
        }
    }
}

/// Replaces `path` by a new file, atomically: a reader gets all of the old or all of the new one.
pub(super) fn replace(path: &Path, content: &[u8], permissions: &Permissions) -> Result<(), Error> {
    let write = |source| Error::Write { path: path.to_owned(), source };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(write(io::ErrorKind::InvalidFilename.into()));
    };
    // Runtimes do not read files with this ending. Under the lock, an existing one is left over from a crash.
    let temporary = directory.join(format!(".{}.netpol-new", name.to_string_lossy()));
    let written = match fill(&temporary, content, permissions) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove(&temporary)?;
            fill(&temporary, content, permissions)
        }
        written => written,
    };
    let written = written.and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = written {
        // The error of the write is the one to report.
        drop(fs::remove_file(&temporary));
        return Err(write(source));
    }
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(write)
}

fn fill(path: &Path, content: &[u8], permissions: &Permissions) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    let metadata = file.metadata()?;
    if let Some((uid, gid)) = permissions.owner
        && (metadata.uid(), metadata.gid()) != (uid, gid)
    {
        fchown(&file, Some(uid), Some(gid))?;
    }
    // After the owner, because `chown` clears some bits of the mode.
    file.set_permissions(fs::Permissions::from_mode(permissions.mode))?;
    file.sync_all()
}

/// Removes a file, if it exists.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|source| Error::Remove { path: path.to_owned(), source }),
    }
}

/// The metadata of a file; `None` if it does not exist.
pub(super) fn metadata(path: &Path) -> Result<Option<Metadata>, Error> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}
