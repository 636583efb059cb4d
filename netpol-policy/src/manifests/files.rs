//! Finds manifest files and reads their text.
//!
//! In: paths. Out: sorted file names, and text. Must not: parse the text.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The extensions of manifests in a directory. A file that is given by its own path may have any extension.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// The largest file that is read, in bytes. The objects of a whole cluster fit; a disk image given by mistake does not.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// The manifests below a directory.
#[derive(Debug, Default)]
pub struct Listing {
    /// The files, in the order in which they are read.
    pub files: BTreeSet<PathBuf>,
    /// Files and directories that exist but cannot be read.
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

/// Lists the manifests in and below a directory.
///
/// Hidden files are skipped because editors keep their copies in them. Links to directories are not followed because a
/// mounted `ConfigMap` contains every file a second time behind such a link.
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
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
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
        let message = format!("the file has more than {MAX_BYTES} bytes, the limit of the reader");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}
