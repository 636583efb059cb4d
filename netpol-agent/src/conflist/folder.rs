//! The configuration directory itself.
//!
//! In: a directory and plans for it. Out: files, each changed at once and for good: a new file takes the place of the
//! old one, with its mode and owner.
//! Must not: decide what is to be done.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use super::plan::{self, Plan, Snapshot, Step};
use super::{Entry, Error};

/// How often a plan is made anew because somebody else was faster.
const ATTEMPTS: usize = 5;

/// What was done.
#[derive(Debug, Default)]
#[must_use]
pub struct Report {
    /// The changes, in their order. Empty if everything was as wanted.
    pub steps: Vec<Step>,
    /// What could not be done, or should be looked at.
    pub problems: Vec<Error>,
    /// The file that has our entry now.
    pub file: Option<PathBuf>,
}

/// Puts our entry into the file that the runtime uses.
///
/// # Errors
/// [`Error::List`], [`Error::Lock`], [`Error::Write`], [`Error::Remove`] and [`Error::Restless`]. What is wrong with single files is
/// in the report.
pub fn install(directory: &Path, entry: &Entry) -> Result<Report, Error> {
    carry_out(directory, |snapshot| plan::install(snapshot, entry))
}

/// Takes our entry out of every file, and removes what we keep in the directory.
///
/// # Errors
/// As [`install`].
pub fn uninstall(directory: &Path) -> Result<Report, Error> {
    carry_out(directory, plan::uninstall)
}

fn carry_out(directory: &Path, plan: impl Fn(&Snapshot) -> Plan) -> Result<Report, Error> {
    let _lock = lock(directory)?;
    let mut report = Report::default();
    for _ in 0..ATTEMPTS {
        let Plan { steps, problems, file } = plan(&look(directory)?);
        report.problems = problems;
        report.file = file;
        if apply(directory, steps, &mut report.steps)? == Outcome::Done {
            return Ok(report);
        }
    }
    Err(Error::Restless { path: directory.to_owned() })
}

/// Keeps other installs and uninstalls out of a directory until the file is dropped.
pub(super) fn lock(directory: &Path) -> Result<File, Error> {
    let path = || directory.to_owned();
    let file = File::open(directory).map_err(|source| Error::List { path: path(), source })?;
    file.lock().map_err(|source| Error::Lock { path: path(), source })?;
    Ok(file)
}

fn look(directory: &Path) -> Result<Snapshot, Error> {
    let list = |source| Error::List { path: directory.to_owned(), source };
    let mut by_name = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(list)? {
        let entry = entry.map_err(list)?;
        // A name that is not UTF-8 is nobody's configuration.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !plan::is_read(&name) || entry.path().is_dir() {
            continue;
        }
        match fs::read_to_string(entry.path()) {
            // Removed since the directory was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !entry.path().is_symlink() => {
            }
            content => {
                by_name.insert(name, content);
            }
        }
    }
    Ok(Snapshot { directory: directory.to_owned(), by_name })
}

/// Whether the steps of a plan were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Somebody else changed a file meanwhile: the plan is void from there on.
    Overtaken,
}

fn apply(directory: &Path, steps: Vec<Step>, taken: &mut Vec<Step>) -> Result<Outcome, Error> {
    for step in steps {
        match &step {
            Step::Backup { name, text, like } | Step::Make { name, text, from: like } => {
                let Some(like) = metadata(&directory.join(like))? else {
                    return Ok(Outcome::Overtaken);
                };
                replace(&directory.join(name), text.as_bytes(), &Looks::of(&like))?;
            }
            Step::Replace { name, seen, text, purpose: _ } => {
                if edit(&directory.join(name), seen, text)? == Outcome::Overtaken {
                    return Ok(Outcome::Overtaken);
                }
            }
            Step::Remove { name } => remove(&directory.join(name))?,
        }
        taken.push(step);
    }
    Ok(Outcome::Done)
}

/// Replaces a file if its text is still the one that was seen. A file that is being written in place just now (as
/// `cp` does) loses nothing: its old self is looked at once more after it was replaced.
fn edit(path: &Path, seen: &str, text: &str) -> Result<Outcome, Error> {
    // A link stays one; what it leads to is replaced.
    let path = &match fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Overtaken),
        Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
    };
    let read = |source| Error::Read { path: path.clone(), source };
    let mut old = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Overtaken),
        file => file.map_err(read)?,
    };
    let looks = Looks::of(&old.metadata().map_err(read)?);
    if text_of(&mut old).map_err(read)? != seen.as_bytes() {
        return Ok(Outcome::Overtaken);
    }
    replace(path, text.as_bytes(), &looks)?;
    let late = text_of(&mut old).map_err(read)?;
    if late != seen.as_bytes() && serde_json::from_slice::<IgnoredAny>(&late).is_ok() {
        replace(path, &late, &looks)?;
        return Ok(Outcome::Overtaken);
    }
    Ok(Outcome::Done)
}

fn text_of(file: &mut File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut text)?;
    Ok(text)
}

/// Mode and owner.
pub(super) struct Looks {
    /// The permission bits.
    pub(super) mode: u32,
    /// User and group; none: whoever writes it.
    pub(super) owner: Option<(u32, u32)>,
}

impl Looks {
    fn of(metadata: &Metadata) -> Self {
        Self {
            mode: metadata.permissions().mode() & 0o7777,
            owner: Some((metadata.uid(), metadata.gid())),
        }
    }
}

/// Puts a new file in the place of `path`. Whoever opens it gets all of the old or all of the new one.
pub(super) fn replace(path: &Path, content: &[u8], looks: &Looks) -> Result<(), Error> {
    let write = |source| Error::Write { path: path.to_owned(), source };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(write(io::ErrorKind::InvalidFilename.into()));
    };
    // Runtimes do not read files that end so; under the lock, one that is there is a leftover.
    let temporary = directory.join(format!(".{}.netpol-new", name.to_string_lossy()));
    let written = match fill(&temporary, content, looks) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove(&temporary)?;
            fill(&temporary, content, looks)
        }
        written => written,
    };
    let written = written.and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = written {
        // The first problem is the one to tell.
        drop(fs::remove_file(&temporary));
        return Err(write(source));
    }
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(write)
}

fn fill(path: &Path, content: &[u8], looks: &Looks) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    let metadata = file.metadata()?;
    if let Some((uid, gid)) = looks.owner
        && (metadata.uid(), metadata.gid()) != (uid, gid)
    {
        fchown(&file, Some(uid), Some(gid))?;
    }
    // After the owner: a change of owner takes some bits away.
    file.set_permissions(Permissions::from_mode(looks.mode))?;
    file.sync_all()
}

/// Removes a file. One that is not there is fine.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|source| Error::Remove { path: path.to_owned(), source }),
    }
}

/// What a file looks like. None if it is not there.
pub(super) fn metadata(path: &Path) -> Result<Option<Metadata>, Error> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}
