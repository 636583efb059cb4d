//! The inotify events of a folder.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tracing::warn;

/// The inotify events of a directory, which may be replaced by another one of the same name.
#[derive(Debug, Default)]
pub(crate) struct FolderEvents {
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the watched directory.
    watched: Option<(u64, u64)>,
}

impl FolderEvents {
    /// Watches the directory, if it is not watched yet. If that fails, there are no events.
    pub(crate) fn ensure(&mut self, directory: &Path, changed: &Arc<Notify>) {
        let identity = fs::metadata(directory).ok().map(|meta| (meta.dev(), meta.ino()));
        if identity == self.watched && self.watcher.is_some() == identity.is_some() {
            return;
        }
        self.watched = identity;
        self.watcher = None;
        if identity.is_some() {
            match watcher(directory, changed) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => {
                    warn!(%error, directory = %directory.display(), "directory not watched by inotify");
                }
            }
        }
    }
}

fn watcher(directory: &Path, changed: &Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let changed = Arc::clone(changed);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Errors count as changes, because events may have been lost.
        if event.is_err() || event.is_ok_and(|event| is_change(event.kind)) {
            changed.notify_one();
        }
    })?;
    watcher.watch(directory, RecursiveMode::Recursive)?;
    Ok(watcher)
}

/// Whether something may have changed. Reading a file, as a scan does, is not a change.
const fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => {
            matches!(access, AccessKind::Close(AccessMode::Write | AccessMode::Any))
        }
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}
