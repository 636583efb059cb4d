//! A directory of manifests as a source of objects.
//!
//! In: the directory, and inotify events about it. Out: [`SourceUpdate`]s. After events the whole directory is scanned, once
//! no more events arrive, so that the result does not depend on their content; it is also scanned in intervals without
//! events.
//! Must not: remove objects because a file cannot be read (see `Catalog`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::catalog::{Catalog, Scan, Step};
use crate::folder_events::FolderEvents;
use netpol_policy::manifests::{Finding, files};
use netpol_policy::model::{Kind, Severity};
use netpol_policy::source::{Health, SourceUpdate};

/// Times of the watch. The defaults are for files that people edit; tests use shorter ones.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Time without events after which the directory is scanned.
    pub quiet: Duration,
    /// Longest time between an event and the scan, if more events arrive.
    pub patience: Duration,
    /// Time after which the directory is scanned without any event.
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

/// Watches a directory until `cancel` is cancelled or the receiver of `out` is dropped.
///
/// The first update with deltas is the complete list of every kind. While the directory or a file in it cannot be read,
/// there is no list; after the list, the objects of a file that cannot be read stay as they were.
pub fn spawn(
    directory: PathBuf,
    options: Options,
    out: &mpsc::Sender<SourceUpdate>,
    cancel: &CancellationToken,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (out, cancel) = (out.clone(), cancel.clone());
    tasks.spawn(async move {
        // Cancelled or ended: the task ends in both cases.
        let _: Option<()> = cancel.run_until_cancelled(follow(directory, options, out)).await;
    });
    tasks
}

async fn follow(directory: PathBuf, options: Options, out: mpsc::Sender<SourceUpdate>) {
    let changed = Arc::new(Notify::new());
    let mut events = FolderEvents::default();
    let mut catalog = Catalog::default();
    let mut reporter = Reporter::new(now());
    loop {
        // Before the scan, so that no change between the two is missed.
        events.ensure(&directory, &changed);
        let scanned = directory.clone();
        let scanning = spawn_blocking(move || {
            let step = catalog.apply(scan(&scanned));
            (catalog, step)
        });
        let step;
        (catalog, step) = match scanning.await {
            Ok(scanned) => scanned,
            Err(error) => {
                error!(%error, "scan of the manifests failed; they are not watched any more");
                return;
            }
        };
        let is_unsure = step.is_unsure;
        if out.send(reporter.update(step, now())).await.is_err() {
            return;
        }
        let pause = if is_unsure { options.quiet } else { options.interval };
        if timeout(pause, changed.notified()).await.is_ok() {
            debounce(&changed, options).await;
        }
    }
}

/// Waits until no event arrives for `options.quiet`, but at most for `options.patience`.
async fn debounce(changed: &Notify, options: Options) {
    let quiet = async { while timeout(options.quiet, changed.notified()).await.is_ok() {} };
    if timeout(options.patience, quiet).await.is_err() {
        debug!("manifests keep changing");
    }
}

/// Reads all files of the directory.
fn scan(directory: &Path) -> Scan {
    let listing = files::list(directory);
    let files = listing.files.into_iter().map(|path| {
        let text = files::read(&path);
        (path, text)
    });
    Scan { files: files.collect(), unreadable: listing.unreadable }
}

/// Makes updates of steps: adds the health with its times, and logs findings once.
#[derive(Debug)]
struct Reporter {
    synced_since: Instant,
    broken_since: Option<Instant>,
    was_listed: bool,
    /// The errors that have been logged.
    problems: Vec<Finding>,
}

impl Reporter {
    const fn new(now: Instant) -> Self {
        Self { synced_since: now, broken_since: None, was_listed: false, problems: Vec::new() }
    }

    fn update(&mut self, step: Step, now: Instant) -> SourceUpdate {
        let Step { deltas, diagnostics, new_findings, problems, is_unsure: _ } = step;
        for finding in &new_findings {
            match finding.severity() {
                Severity::Error => warn!(%finding, "manifest"),
                Severity::Warning => info!(%finding, "manifest"),
            }
        }
        if !self.was_listed && !deltas.is_empty() {
            self.was_listed = true;
            info!("manifests listed");
        }
        if self.problems != problems {
            for finding in problems.iter().filter(|problem| !new_findings.contains(problem)) {
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

#[expect(
    clippy::disallowed_methods,
    reason = "the health of a source has the time of its latest change"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use netpol_policy::store::Delta;

    /// How long a test waits for an update.
    const DEADLINE: Duration = Duration::from_secs(20);

    /// A watched directory.
    struct Watched {
        root: PathBuf,
        updates: mpsc::Receiver<SourceUpdate>,
        tasks: JoinSet<()>,
        _directory: tempfile::TempDir,
    }

    impl Watched {
        /// Watches a new directory, or a path below it that does not exist.
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

        /// Replaces a file atomically.
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

    /// With events only: the interval is longer than the deadline.
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
            | Delta::OwnAddresses(_)
            | Delta::ListedBackends(_)
            | Delta::ShortCuts(_)
            | Delta::PublishedAddresses { .. } => false,
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
    async fn a_missing_directory_delays_the_list_until_it_exists() {
        let mut watched = Watched::new(BY_INTERVAL, "not-there");
        let update = watched.until(|update| !is_synced(update)).await;
        assert!(update.deltas.is_empty());
        watched.write("a.yaml", &namespace("a"));
        let update = watched.until(|update| !update.deltas.is_empty()).await;
        let is_list = |delta: &&Delta| matches!(delta, Delta::Replace(_));
        assert_eq!(update.deltas.iter().filter(is_list).count(), Kind::ALL.len());
        assert!(is_synced(&update));
    }

    #[tokio::test]
    async fn every_way_to_change_a_file_causes_an_update() {
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
    async fn a_directory_that_is_created_again_is_watched_again() {
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
    async fn a_broken_file_is_reported_and_keeps_its_objects() {
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
    async fn a_mounted_config_map_is_read_once_and_watched() {
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
    async fn the_watch_ends_when_its_receiver_is_dropped() {
        let Watched { updates, mut tasks, .. } = Watched::new(BY_INTERVAL, "");
        drop(updates);
        let ended = timeout(DEADLINE, tasks.join_next()).await;
        assert!(matches!(ended, Ok(Some(Ok(())))));
    }
}
