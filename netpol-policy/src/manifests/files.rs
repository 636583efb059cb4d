//! Which files there are, and their text.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The endings of manifests in a directory. A file that is named itself may have any.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// The largest file that is read, in bytes: a whole cluster as YAML fits, a disk image does not.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// The manifests below a directory.
#[derive(Debug, Default)]
pub struct Listing {
    /// The files, in the order in which they count.
    pub files: BTreeSet<PathBuf>,
    /// Files and directories that are there but cannot be looked at.
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

/// Lists the manifests below a directory. Hidden ones and links to directories are passed over: editors
/// keep their copies in the former, and a mounted `ConfigMap` has every file twice through the latter.
pub fn list(directory: &Path) -> Listing {
    let mut listing = Listing::default();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        let entries = fs::read_dir(&directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                listing.unreadable.push((directory, error));
                continue;
            }
        };
        for entry in entries {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(path),
                Ok(_) if !is_manifest(&path) => {}
                Ok(_) => match fs::metadata(&path) {
                    Ok(target) if target.is_file() => {
                        listing.files.insert(path);
                    }
                    Ok(_) => {}
                    Err(error) => listing.unreadable.push((path, error)),
                },
                Err(error) => listing.unreadable.push((path, error)),
            }
        }
    }
    listing
}

fn is_manifest(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| ENDINGS.contains(&ending))
}

/// The text of a file.
///
/// # Errors
/// Those of the file system; `InvalidData` when it is not UTF-8, `FileTooLarge` when it is too large.
pub fn read(path: &Path) -> io::Result<String> {
    read_text(fs::File::open(path)?)
}

/// The text of an open file or a pipe.
///
/// # Errors
/// As [`read`].
pub fn read_text(file: impl Read) -> io::Result<String> {
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}
