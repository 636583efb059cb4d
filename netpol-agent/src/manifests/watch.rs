//! A directory of manifests as a source of objects.
//!
//! In: the directory, and the kernel's word that something in it changed. Out: [`SourceUpdate`]s. After a change
//! everything is looked at again once it is quiet, so that the result does not depend on what the
//! events said; now and then it is looked at without any event.
//! Must not: forget objects because something cannot be read (see `Catalog`).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::catalog::{Catalog, Look, Step};
use netpol_policy::manifests::{Finding, files};
use netpol_policy::model::{Kind, Severity};
use netpol_policy::source::{Health, SourceUpdate};

/// How to watch. The defaults suit people who edit files; tests want shorter times.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// After a change the directory is looked at when nothing changed for so long.
    pub quiet: Duration,
    /// It is looked at after so long even if it is never quiet.
    pub patience: Duration,
    /// It is looked at after so long even if nothing seems to change.
    pub interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(200),
            patience: Duration::from_secs(2),
            interval: Duration::from_secs(10),
        }
    }
}

/// Watches a directory until `cancel` is cancelled or the other end of `out` is dropped.
///
/// The first update with deltas is the complete list of every kind. If the directory or a file in it
/// cannot be read then, there is no list until it can; later, what cannot be read stays as it was.
pub fn spawn(
    directory: PathBuf,
    options: Options,
    out: &mpsc::Sender<SourceUpdate>,
    cancel: &CancellationToken,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (out, cancel) = (out.clone(), cancel.clone());
    tasks.spawn(async move {
        // Cancelled or not, there is nothing left to do.
        let _: Option<()> = cancel.run_until_cancelled(follow(directory, options, out)).await;
    });
    tasks
}

async fn follow(directory: PathBuf, options: Options, out: mpsc::Sender<SourceUpdate>) {
    let changed = Arc::new(Notify::new());
    let mut events = Events::default();
    let mut catalog = Catalog::default();
    let mut reporter = Reporter::new(now());
    loop {
        // Before the look, so that no change falls between.
        events.follow(&directory, &changed);
        let looked_at = directory.clone();
        let looking = spawn_blocking(move || {
            let step = catalog.apply(look(&looked_at));
            (catalog, step)
        });
        let step;
        (catalog, step) = match looking.await {
            Ok(looked) => looked,
            Err(error) => {
                error!(%error, "manifests can no longer be read");
                return;
            }
        };
        let is_unsure = step.is_unsure;
        if out.send(reporter.update(step, now())).await.is_err() {
            return;
        }
        let pause = if is_unsure { options.quiet } else { options.interval };
        if timeout(pause, changed.notified()).await.is_ok() {
            settle(&changed, options).await;
        }
    }
}

/// Waits until it is quiet, or for as long as patience lasts.
async fn settle(changed: &Notify, options: Options) {
    let quiet = async { while timeout(options.quiet, changed.notified()).await.is_ok() {} };
    if timeout(options.patience, quiet).await.is_err() {
        debug!("manifests change all the time");
    }
}

/// Reads all there is.
fn look(directory: &Path) -> Look {
    let listing = files::list(directory);
    let files = listing.files.into_iter().map(|path| {
        let text = files::read(&path);
        (path, text)
    });
    Look { files: files.collect(), unreadable: listing.unreadable }
}

/// The kernel's events about a directory, which may come to be another one of the same name.
#[derive(Debug, Default)]
struct Events {
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the directory that the watcher watches.
    followed: Option<(u64, u64)>,
}

impl Events {
    /// Makes sure that changes are told. Without events the directory is still looked at in intervals.
    fn follow(&mut self, directory: &Path, changed: &Arc<Notify>) {
        let identity = fs::metadata(directory).ok().map(|meta| (meta.dev(), meta.ino()));
        if identity == self.followed && self.watcher.is_some() == identity.is_some() {
            return;
        }
        self.followed = identity;
        self.watcher = None;
        if identity.is_some() {
            match watcher(directory, changed) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => warn!(%error, directory = %directory.display(), "no file events"),
            }
        }
    }
}

fn watcher(directory: &Path, changed: &Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let changed = Arc::clone(changed);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Errors too: after one, events may be missing.
        if event.is_err() || event.is_ok_and(|event| is_change(event.kind)) {
            changed.notify_one();
        }
    })?;
    watcher.watch(directory, RecursiveMode::Recursive)?;
    Ok(watcher)
}

/// Whether something may have changed. That a file is read, as by ourselves, is no change.
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

/// Turns steps into updates, with the times in them.
#[derive(Debug)]
struct Reporter {
    synced_since: Instant,
    broken_since: Option<Instant>,
    was_listed: bool,
    /// The problems that have been logged.
    problems: Vec<Finding>,
}

impl Reporter {
    const fn new(now: Instant) -> Self {
        Self { synced_since: now, broken_since: None, was_listed: false, problems: Vec::new() }
    }

    fn update(&mut self, step: Step, now: Instant) -> SourceUpdate {
        let Step { deltas, diagnostics, news, problems, is_unsure: _ } = step;
        for finding in &news {
            match finding.severity() {
                Severity::Error => warn!(%finding, "manifest"),
                Severity::Warning => info!(%finding, "manifest"),
            }
        }
        if !self.was_listed && !deltas.is_empty() {
            self.was_listed = true;
            info!("manifests are listed");
        }
        if self.problems != problems {
            for finding in problems.iter().filter(|problem| !news.contains(problem)) {
                warn!(%finding, "manifest");
            }
            self.problems.clone_from(&problems);
        }
        let health = self.health(&problems, now);
        let health = Kind::ALL.into_iter().map(|kind| (kind, health.clone())).collect();
        SourceUpdate { deltas, diagnostics, health }
    }

    fn health(&mut self, problems: &[Finding], now: Instant) -> Health {
        let Some(first) = problems.first() else {
            if self.broken_since.take().is_some() {
                self.synced_since = now;
            }
            return Health::Synced { since: self.synced_since, heard: now };
        };
        let since = *self.broken_since.get_or_insert(now);
        let error = match problems.len() {
            1 => first.to_string(),
            n_problems => format!("{first}, and {} more", n_problems - 1),
        };
        Health::Broken { since, error: Arc::from(error) }
    }
}

#[expect(clippy::disallowed_methods, reason = "the health of a source tells since when")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netpol_policy::store::Delta;

    /// How long a test waits for what must come.
    const DEADLINE: Duration = Duration::from_secs(20);

    /// A directory that is watched.
    struct Watched {
        root: PathBuf,
        updates: mpsc::Receiver<SourceUpdate>,
        tasks: JoinSet<()>,
        _directory: tempfile::TempDir,
    }

    impl Watched {
        /// Watches a new directory, or one below it that is not there.
        fn new(options: Options, below: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let (out, updates) = mpsc::channel(16);
            let root = directory.path().join(below);
            let tasks = spawn(root.clone(), options, &out, &CancellationToken::new());
            Self { root, updates, tasks, _directory: directory }
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// Puts another file in its place at once.
        fn replace(&self, name: &str, text: &str) {
            self.write(".staged", text);
            fs::rename(self.root.join(".staged"), self.root.join(name)).unwrap();
        }

        fn link(&self, name: &str, target: &str) {
            let staged = self.root.join(".staged");
            std::os::unix::fs::symlink(target, &staged).unwrap();
            fs::rename(staged, self.root.join(name)).unwrap();
        }

        /// The first update for which this holds.
        async fn until(&mut self, holds: impl Fn(&SourceUpdate) -> bool) -> SourceUpdate {
            let wanted = async {
                loop {
                    let update = self.updates.recv().await.unwrap();
                    if holds(&update) {
                        return update;
                    }
                }
            };
            timeout(DEADLINE, wanted).await.expect("the update comes in time")
        }
    }

    /// Events alone must do: the interval is longer than the deadline.
    const BY_EVENTS: Options = Options {
        quiet: Duration::from_millis(20),
        patience: Duration::from_millis(200),
        interval: Duration::from_mins(10),
    };

    const BY_INTERVAL: Options = Options { interval: Duration::from_millis(20), ..BY_EVENTS };

    fn namespace(name: &str) -> String {
        format!("{{ apiVersion: v1, kind: Namespace, metadata: {{ name: {name} }} }}\n")
    }

    fn adds(update: &SourceUpdate, name: &str) -> bool {
        update.deltas.iter().any(|delta| match delta {
            Delta::Upsert(object) => *object.object_ref().name.name == *name,
            Delta::Replace(list) => {
                list.objects().iter().any(|object| *object.object_ref().name.name == *name)
            }
            Delta::Remove { .. }
            | Delta::UpsertEndpoint(_)
            | Delta::RemoveEndpoint(_)
            | Delta::OwnAddresses(_) => false,
        })
    }

    fn removes(update: &SourceUpdate, name: &str) -> bool {
        update.deltas.iter().any(
            |delta| matches!(delta, Delta::Remove { object, .. } if *object.name.name == *name),
        )
    }

    fn is_synced(update: &SourceUpdate) -> bool {
        update.health.iter().all(|(_, health)| matches!(health, Health::Synced { .. }))
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_withholds_the_list_until_it_is() {
        let mut watched = Watched::new(BY_INTERVAL, "not-there");
        let update = watched.until(|update| !is_synced(update)).await;
        assert!(update.deltas.is_empty());
        watched.write("a.yaml", &namespace("a"));
        let update = watched.until(|update| !update.deltas.is_empty()).await;
        assert_eq!(update.deltas.len(), Kind::ALL.len());
        assert!(is_synced(&update));
    }

    #[tokio::test]
    async fn changes_are_picked_up_by_events_however_they_are_made() {
        let mut watched = Watched::new(BY_EVENTS, "");
        watched.until(|update| !update.deltas.is_empty()).await;

        watched.write("a.yaml", &namespace("a"));
        watched.until(|update| adds(update, "a")).await;

        watched.replace("a.yaml", &format!("{}---\n{}", namespace("a"), namespace("b")));
        watched.until(|update| adds(update, "b")).await;

        watched.write("sub/deep/c.yaml", &namespace("c"));
        watched.until(|update| adds(update, "c")).await;

        fs::remove_dir_all(watched.root.join("sub")).unwrap();
        watched.until(|update| removes(update, "c")).await;

        fs::remove_file(watched.root.join("a.yaml")).unwrap();
        watched.until(|update| removes(update, "a") && removes(update, "b")).await;
    }

    #[tokio::test]
    async fn a_directory_that_is_made_anew_is_followed_again() {
        let mut watched = Watched::new(BY_INTERVAL, "root");
        watched.write("a.yaml", &namespace("a"));
        watched.until(|update| adds(update, "a")).await;
        fs::remove_dir_all(&watched.root).unwrap();
        let update = watched.until(|update| !is_synced(update)).await;
        assert!(!removes(&update, "a"));
        watched.write("b.yaml", &namespace("b"));
        watched.until(|update| adds(update, "b")).await;
        watched.until(|update| removes(update, "a")).await;
    }

    #[tokio::test]
    async fn a_broken_file_is_reported_and_loses_nothing() {
        let mut watched = Watched::new(BY_INTERVAL, "");
        watched.write("a.yaml", &namespace("a"));
        watched.until(|update| adds(update, "a")).await;
        watched.replace("a.yaml", "kind: [");
        let update = watched.until(|update| !is_synced(update)).await;
        assert!(update.deltas.is_empty());
        let Some((_, Health::Broken { error, .. })) = update.health.first() else { panic!() };
        assert!(error.contains("a.yaml:1: "), "{error}");
        watched.replace("a.yaml", &namespace("b"));
        let update = watched.until(is_synced).await;
        assert!(adds(&update, "b") && removes(&update, "a"));
    }

    #[tokio::test]
    async fn a_mounted_config_map_is_read_once_and_followed() {
        let mut watched = Watched::new(BY_EVENTS, "");
        watched.write("..v1/a.yaml", &namespace("a"));
        watched.link("..data", "..v1");
        watched.link("a.yaml", "..data/a.yaml");
        let update = watched.until(|update| adds(update, "a")).await;
        assert!(update.diagnostics.is_empty());
        watched.write("..v2/a.yaml", &namespace("b"));
        watched.link("..data", "..v2");
        let update = watched.until(|update| adds(update, "b")).await;
        assert!(removes(&update, "a"));
    }

    #[tokio::test]
    async fn the_watch_ends_when_nobody_listens() {
        let Watched { updates, mut tasks, .. } = Watched::new(BY_INTERVAL, "");
        drop(updates);
        let ended = timeout(DEADLINE, tasks.join_next()).await;
        assert!(matches!(ended, Ok(Some(Ok(())))));
    }
}
