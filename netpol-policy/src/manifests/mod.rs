//! Objects from YAML and JSON files.
//!
//! In: paths, or the text itself. Out: objects with the place of their definition, and findings that name
//! file, line, object and field.
//! Must not: fail because of what is in a file, or let one broken document hide the others.

mod content;
pub mod files;
mod finding;
mod yaml;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use content::{Content, Entry, content};
pub use finding::{Cause, FileCode, Finding, Place, Sourced};
pub use yaml::Lines;

use crate::model::{Object, ObjectRef};

/// The path that means the standard input.
pub const STDIN: &str = "-";

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// Every object once, in the order of files and lines.
    pub objects: Vec<Sourced<Object>>,
    /// What was found, in the order of files and lines.
    pub findings: Vec<Finding>,
    /// Objects of kinds that netpol does not use: `apiVersion` and kind.
    pub passed_over: Vec<Sourced<String>>,
    lines: BTreeMap<ObjectRef, (Arc<Path>, Lines)>,
}

impl Manifests {
    /// Where a field of an object stands, or the nearest thing around it; `None` for an object that was not read.
    pub fn place_of(&self, object: &ObjectRef, field: &str) -> Option<Place> {
        if let Some((file, lines)) = self.lines.get(object) {
            return Some(Place { file: Arc::clone(file), line: lines.find(field).line });
        }
        let read = self.objects.iter().find(|read| read.object.object_ref() == *object)?;
        Some(read.place.clone())
    }
}

/// Reads files and directories, in the order in which they are given.
///
/// A directory stands for the `.yaml`, `.yml` and `.json` files in and below it, sorted by path; `-` for
/// `stdin`. An object that is defined more than once is what the last definition says.
pub fn read(paths: &[PathBuf], stdin: &mut dyn Read) -> Manifests {
    let mut reading = Reading::default();
    for path in paths {
        if path.as_os_str() == STDIN {
            reading.add(path, files::read_text(&mut *stdin));
        } else if path.is_dir() {
            let listing = files::list(path);
            for (path, error) in listing.unreadable {
                reading.add(&path, Err(error));
            }
            for path in listing.files {
                reading.add(&path, files::read(&path));
            }
        } else {
            reading.add(path, files::read(path));
        }
    }
    reading.finish()
}

/// Reads the objects of a text as if it stood in a file of this name.
pub fn parse(name: &str, text: &str) -> Manifests {
    let mut reading = Reading::default();
    reading.add(Path::new(name), Ok(text.to_owned()));
    reading.finish()
}

/// What has been read so far.
#[derive(Debug, Default)]
struct Reading {
    files: Vec<Arc<Path>>,
    entries: Vec<Entry>,
    manifests: Manifests,
}

impl Reading {
    fn add(&mut self, path: &Path, text: std::io::Result<String>) {
        let file: Arc<Path> = Arc::from(path);
        self.files.push(Arc::clone(&file));
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                self.manifests.findings.push(unreadable(file, &error));
                return;
            }
        };
        let Content { entries, findings, passed_over, is_broken: _ } = content(&file, &text);
        self.manifests.findings.extend(findings);
        self.manifests.passed_over.extend(passed_over);
        // As for `kubectl`, what is broken is not there.
        let (partial, whole): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.is_partial);
        let cut_off = partial.iter().map(|entry| entry.cut_off("it is left out"));
        self.manifests.findings.extend(cut_off);
        self.entries.extend(whole);
    }

    /// Takes the last definition of each object, and sorts the findings.
    fn finish(self) -> Manifests {
        let Self { files, entries, mut manifests } = self;
        let mut last: BTreeMap<ObjectRef, (usize, Place)> = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            last.insert(entry.object_ref(), (index, entry.object.place.clone()));
        }
        for (index, entry) in entries.into_iter().enumerate() {
            match last.get(&entry.object_ref()) {
                Some((counts, place)) if *counts != index => {
                    manifests.findings.push(entry.overridden(place));
                }
                Some(_) | None => {
                    manifests.findings.extend(entry.findings);
                    if let Some(lines) = entry.lines {
                        let file = Arc::clone(&entry.object.place.file);
                        manifests.lines.insert(entry.object.object.object_ref(), (file, lines));
                    }
                    manifests.objects.push(entry.object);
                }
            }
        }
        let order: BTreeMap<_, _> = files.iter().enumerate().map(|(at, file)| (file, at)).collect();
        let place = |found: &Finding| (order.get(&found.place.file).copied(), found.place.line);
        manifests.findings.sort_by_key(place);
        manifests
    }
}

/// The finding on a file that cannot be read.
pub fn unreadable(file: Arc<Path>, error: &std::io::Error) -> Finding {
    Finding {
        place: Place { file, line: 0 },
        cause: Cause::File { code: FileCode::Unreadable, message: error.to_string() },
    }
}

#[cfg(test)]
mod tests;
