//! Objects from YAML and JSON files.
//!
//! In: paths, or text. Out: objects with the location of their definition, and findings that name file, line, object and
//! field.
//! Must not: fail because of the content of a file, or skip the other documents of a file because one is broken.

mod content;
pub mod files;
mod finding;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use content::{Content, Entry, content};
pub use finding::{Cause, FileCode, Finding, Located, Location};
pub use yaml::Lines;

use crate::model::convert::ListedBackends;
use crate::model::{Object, ObjectName, ObjectRef, ServiceBackend};

/// The path that stands for the standard input.
pub const STDIN: &str = "-";

/// The objects and findings of a set of files.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// Every object once, in the order of files and lines. A workload is the pod of its template.
    pub objects: Vec<Located<Object>>,
    /// The findings, in the order of files and lines.
    pub findings: Vec<Finding>,
    /// `apiVersion` and kind of each object whose kind netpol does not use.
    pub unsupported: Vec<Located<String>>,
    /// The texts that cannot be read a second time: of the standard input and of pipes.
    pub piped: BTreeMap<PathBuf, String>,
    lines: BTreeMap<ObjectRef, (Arc<Path>, Lines)>,
}

impl Manifests {
    /// Whether a policy of a file contains a field; `true` for an object that was not read.
    pub fn has_field(&self, object: &ObjectRef, path: &[&str]) -> bool {
        self.lines.get(object).is_none_or(|(_, lines)| lines.has(path))
    }

    /// The location of a field of an object, or of the nearest enclosing field that is written in the file; `None` for an
    /// object that was not read.
    pub fn location_of(&self, object: &ObjectRef, field: &str) -> Option<Location> {
        if let Some((file, lines)) = self.lines.get(object) {
            return Some(Location::at(file, lines.find(field).position));
        }
        let read = self.objects.iter().find(|read| read.object.object_ref() == *object)?;
        Some(read.location.clone())
    }
}

/// Reads files and directories, in the order in which they are given.
///
/// A directory stands for the `.yaml`, `.yml` and `.json` files in and below it, sorted by path; `-` stands for `stdin`.
/// Of an object that is defined more than once, the last definition is used.
pub fn read(paths: &[PathBuf], stdin: &mut dyn Read) -> Manifests {
    let mut reading = Reading::default();
    for path in paths {
        if path.as_os_str() == STDIN {
            let text = files::read_text(&mut *stdin);
            reading.add_piped(path, text);
        } else if path.is_dir() {
            let listing = files::list(path);
            if listing.files.is_empty() && listing.unreadable.is_empty() {
                reading.add_empty(path, "the directory contains no .yaml, .yml or .json file");
            }
            for (path, error) in listing.unreadable {
                reading.add(&path, Err(error));
            }
            for path in listing.files {
                reading.add(&path, files::read(&path));
            }
        } else if path.is_file() {
            reading.add_named(path, files::read(path));
        } else {
            reading.add_piped(path, files::read(path));
        }
    }
    reading.finish()
}

/// Reads the objects of a text; `name` is the file name in the findings.
pub fn parse(name: &str, text: &str) -> Manifests {
    let mut reading = Reading::default();
    reading.add(Path::new(name), Ok(text.to_owned()));
    reading.finish()
}

/// The state of [`read`] between two files.
#[derive(Debug, Default)]
struct Reading {
    files: Vec<Arc<Path>>,
    entries: Vec<Entry>,
    backends: Vec<ListedBackends>,
    manifests: Manifests,
}

impl Reading {
    /// Adds a text that cannot be read again.
    fn add_piped(&mut self, path: &Path, text: std::io::Result<String>) {
        if let Ok(text) = &text {
            self.manifests.piped.insert(path.to_owned(), text.clone());
        }
        self.add_named(path, text);
    }

    /// Adds a file that the user names, which should not be empty.
    fn add_named(&mut self, path: &Path, text: std::io::Result<String>) {
        let is_blank = |text: &String| {
            let mut lines = text.lines().map(str::trim);
            lines.all(|line| line.is_empty() || line.starts_with('#') || line == "---")
        };
        if text.as_ref().is_ok_and(is_blank) {
            self.add_empty(path, "the file contains no document");
        }
        self.add(path, text);
    }

    fn add_empty(&mut self, path: &Path, message: &str) {
        self.manifests.findings.push(Finding {
            location: Location::whole(Arc::from(path)),
            cause: Cause::File { code: FileCode::NoManifest, message: message.to_owned() },
        });
    }

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
        let Content { mut entries, workloads, backends, findings, unsupported, is_broken: _ } =
            content::content_by_threads(&file, &text);
        if !workloads.is_empty() {
            entries.extend(workloads);
            entries.sort_by_key(|entry| entry.object.location.line);
        }
        self.backends.extend(backends);
        self.manifests.findings.extend(findings);
        self.manifests.unsupported.extend(unsupported);
        // Truncated objects are ignored, as `kubectl apply` ignores them.
        let (partial, whole): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.is_truncated);
        let truncated = partial.iter().map(|entry| entry.truncated("the object is ignored"));
        self.manifests.findings.extend(truncated);
        self.entries.extend(whole);
    }

    /// Keeps the last definition of each object, and sorts the findings.
    fn finish(self) -> Manifests {
        let Self { files, entries, backends, mut manifests } = self;
        let mut last: BTreeMap<ObjectRef, (usize, Location)> = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            last.insert(entry.object_ref(), (index, entry.object.location.clone()));
        }
        for (index, entry) in entries.into_iter().enumerate() {
            match last.get(&entry.object_ref()) {
                Some((used, location)) if *used != index => {
                    manifests.findings.push(entry.overridden(location));
                }
                Some(_) | None => {
                    manifests.findings.extend(entry.findings);
                    if let Some(lines) = entry.lines {
                        let file = Arc::clone(&entry.object.location.file);
                        manifests.lines.insert(entry.object.object.object_ref(), (file, lines));
                    }
                    manifests.objects.push(entry.object);
                }
            }
        }
        add_backends(&mut manifests.objects, backends);
        let order: BTreeMap<_, _> = files.iter().enumerate().map(|(at, file)| (file, at)).collect();
        manifests
            .findings
            .sort_by_key(|found| (order.get(&found.location.file).copied(), found.location.line));
        manifests
    }
}

/// Adds listed backends to the Services without a selector. Those of a Service with a selector are its pods.
fn add_backends(objects: &mut [Located<Object>], listed: Vec<ListedBackends>) {
    let mut by_service: BTreeMap<ObjectName, BTreeSet<ServiceBackend>> = BTreeMap::new();
    for ListedBackends { service, backends } in listed {
        by_service.entry(service).or_default().extend(backends);
    }
    for read in objects {
        if let Object::Service(service) = &mut read.object
            && service.selector.is_none()
            && let Some(backends) = by_service.remove(&service.name)
        {
            service.backends = backends.into_iter().collect();
        }
    }
}

/// The finding on a file that cannot be read.
pub fn unreadable(file: Arc<Path>, error: &std::io::Error) -> Finding {
    Finding {
        location: Location::whole(file),
        cause: Cause::File { code: FileCode::Unreadable, message: error.to_string() },
    }
}

#[cfg(test)]
mod tests;
