//! Follows one kind for as long as the agent lives.
//!
//! ```text
//!            ┌── list in pages ──┐
//! no version ┤                   ├─▶ version ─▶ watch ─▶ version ─▶ ...
//!            └── streaming list ─┘      ▲         │
//!                    ▲                  └─────────┤ closed, broken, silent: the same version again
//!                    └────────────────────────────┘ 410 Gone, refused, garbled: a new list
//! ```
//! The version is where the next watch begins: every event up to it has been told. Nothing else is
//! remembered, so whatever happens, the store holds what the last list and the events after it say.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::Options;
use super::access::{Access, Error, Latest};
use super::decode::{self, Decoded, Event, Line};
use super::failure::{Failure, MIN_WATCH, Phase, Remedy};
use super::listing::Listing;
use super::notice;
use super::request::{self, Lines, Scope};
use super::retry::{Retry, spread};
use netpol_policy::model::{Diagnostic, Kind};
use netpol_policy::source::{Health, SourceUpdate};
use netpol_policy::store::Delta;

/// How long the server is asked to keep up a watch, plus up to a quarter.
const WATCH: Duration = Duration::from_mins(4);

/// Failures in a row, none of them serious, that are serious together.
const N_HARMLESS_FAILURES: u32 = 3;

/// Follows one kind.
pub(super) struct Follower {
    scope: Scope,
    access: Access,
    latest: Latest,
    options: Options,
    out: mpsc::Sender<SourceUpdate>,
    /// Where the next watch begins; with a new list if there is none.
    version: Option<Version>,
    /// The server has not shown yet that it does not know streaming lists.
    may_stream: bool,
    /// The last attempt was a streaming list, and failed: the next one is a list in pages.
    avoids_streaming: bool,
    health: Health,
    retry: Retry,
    /// Listed again because the server had forgotten the version, and nothing heard since.
    is_relisted: bool,
    recoveries: Recoveries,
    /// Why the configuration cannot be read again, if that was tried last.
    unrenewed: Option<Error>,
}

/// Counts how often a watch began to work again, for all kinds: whoever waits for the server then waits no longer.
pub(super) type Recoveries = watch::Sender<u64>;

/// A `resourceVersion`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version(String);

impl Version {
    /// Whether this is an earlier state than `other`; false if they cannot be compared. Versions of one
    /// kind are numbers that grow, as Kubernetes guarantees from 1.35 on and etcd made them before.
    fn is_before(&self, other: &Self) -> bool {
        match (self.0.parse::<u64>(), other.0.parse::<u64>()) {
            (Ok(this), Ok(other)) => this < other,
            _ => false,
        }
    }
}

/// The agent listens no longer.
struct Stopped;

/// Why a step of following came to nothing.
enum Stop {
    Failed(Failure),
    Stopped,
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(failure: E) -> Self {
        Self::Failed(failure.into())
    }
}

impl From<Stopped> for Stop {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

impl Follower {
    /// Follows `kind`, once it runs.
    pub(super) fn new(
        kind: Kind,
        access: Access,
        options: Options,
        out: mpsc::Sender<SourceUpdate>,
        recoveries: Recoveries,
    ) -> Self {
        let own_node = options.node.as_deref().filter(|_| kind == Kind::Node);
        Self {
            scope: Scope { kind, name: own_node.map(str::to_owned) },
            latest: access.latest(),
            access,
            retry: Retry::new(options.min_retry, options.max_retry),
            options,
            out,
            version: None,
            may_stream: true,
            avoids_streaming: false,
            health: Health::Listing,
            is_relisted: false,
            recoveries,
            unrenewed: None,
        }
    }

    /// Follows until the agent listens no longer.
    pub(super) async fn run(mut self) {
        let mut told = self.tell_health().await;
        while told.is_ok() {
            let began = Instant::now();
            let phase = match self.version {
                Some(_) => Phase::Watch,
                None if self.may_stream && !self.avoids_streaming => Phase::StreamingList,
                None => Phase::Pages,
            };
            told = match self.follow(phase).await {
                Err(Stop::Failed(failure)) => {
                    // What has a version has been listed.
                    let phase = if self.version.is_some() { Phase::Watch } else { phase };
                    self.recover(failure, phase, began.elapsed()).await
                }
                Err(Stop::Stopped) => Err(Stopped),
            };
        }
    }

    /// Lists if need be, then watches for as long as that works.
    async fn follow(&mut self, first: Phase) -> Result<Infallible, Stop> {
        if first == Phase::Pages {
            let listing = self.list().await?;
            self.deliver(listing).await?;
        }
        let version = self.version.as_ref().map(|version| version.0.as_str());
        let mut lines =
            request::watch(&self.latest.client, &self.scope, version, spread(WATCH)).await?;
        if first == Phase::StreamingList {
            let listing = self.stream_list(&mut lines).await?;
            self.deliver(listing).await?;
        } else {
            self.tell(SourceUpdate::default()).await?;
        }
        let patience = self.options.patience;
        loop {
            let line = timeout(patience, lines.next()).await;
            let line = line.map_err(|_elapsed| Failure::Silent(patience))??;
            self.take(decode::line(self.scope.kind, line)?).await?;
            self.retry.reset();
            self.is_relisted = false;
        }
    }

    /// Reads all pages of a list.
    async fn list(&self) -> Result<Listing, Error> {
        let mut listing = Listing::new(self.scope.kind);
        let mut next: Option<String> = None;
        loop {
            let page_size = self.options.page_size;
            let json =
                request::list(&self.latest.client, &self.scope, page_size, next.as_deref()).await?;
            let page = decode::page(self.scope.kind, &json, |decoded| listing.add(decoded))?;
            listing.version = page.resource_version;
            next = page.next.filter(|next| !next.is_empty());
            if next.is_none() {
                return Ok(listing);
            }
        }
    }

    /// Reads the beginning of a watch as a list, up to the bookmark that ends it.
    async fn stream_list(&self, lines: &mut Lines) -> Result<Listing, Failure> {
        let mut listing = Listing::new(self.scope.kind);
        loop {
            let line = timeout(self.options.streaming_patience, lines.next()).await;
            // A server that does not know the option sends what exists as well, but never says that this was all.
            let line = line.map_err(|_elapsed| Failure::NoStreamingList)??;
            match decode::line(self.scope.kind, line)? {
                Line::Object(Event::Added | Event::Modified, decoded) => listing.add(decoded),
                Line::Object(Event::Deleted, decoded) => {
                    if let Ok(decoded) = decoded {
                        listing.remove(decoded.head.object.name);
                    }
                }
                Line::Bookmark(json) => {
                    let bookmark = notice::bookmark(json)?;
                    if !bookmark.ends_initial_events() {
                        return Err(Failure::NoStreamingList);
                    }
                    listing.version = bookmark.resource_version;
                    return Ok(listing);
                }
                Line::Error(json) => return Err(notice::given_up(json)),
                Line::Unknown(_) => return Err(Failure::NoStreamingList),
            }
        }
    }

    /// Takes one line of a watch.
    async fn take(&mut self, line: Line<'_>) -> Result<(), Stop> {
        let update = match line {
            Line::Object(event, decoded) => self.take_event(event, decoded),
            Line::Bookmark(json) => {
                self.advance(notice::bookmark(json)?.resource_version);
                SourceUpdate::default()
            }
            Line::Error(json) => return Err(notice::given_up(json).into()),
            Line::Unknown(event) => {
                debug!(kind = %self.scope.kind, %event, "watch event of an unknown type");
                SourceUpdate::default()
            }
        };
        Ok(self.tell(update).await?)
    }

    /// Takes an event about one object.
    fn take_event(&mut self, event: Event, decoded: Result<Decoded, Diagnostic>) -> SourceUpdate {
        let mut update = SourceUpdate::default();
        let Decoded { head, object, found } = match decoded {
            Ok(decoded) => decoded,
            Err(found) => {
                update.diagnostics.push((found.object.clone(), vec![found]));
                return update;
            }
        };
        let version = Version(head.version);
        if self.version.as_ref().is_some_and(|newest| version.is_before(newest)) {
            // Events come in the order of their versions: what this one says is known to be over.
            debug!(object = %head.object, version = version.0, "stale watch event");
            return update;
        }
        if event == Event::Deleted {
            update.deltas.push(Delta::Remove { object: head.object, uid: head.uid });
        } else {
            update.deltas.extend(object.map(Delta::Upsert));
            if !found.is_empty() {
                update.diagnostics.push((head.object, found));
            }
        }
        self.advance(version.0);
        update
    }

    /// The next watch begins here, unless that is a step back or no version at all.
    fn advance(&mut self, version: String) {
        let version = Version(version);
        let is_back = self.version.as_ref().is_some_and(|newest| version.is_before(newest));
        if !version.0.is_empty() && !is_back {
            self.version = Some(version);
        }
    }

    /// Tells a complete list.
    async fn deliver(&mut self, listing: Listing) -> Result<(), Stopped> {
        let version = listing.version.clone();
        info!(kind = %self.scope.kind, n_objects = listing.n_entries(), version, "listed");
        self.version = Some(Version(version));
        self.tell(listing.into_update()).await
    }

    /// Tells what the server said, and that it spoke.
    async fn tell(&mut self, mut update: SourceUpdate) -> Result<(), Stopped> {
        let heard = Instant::now().into_std();
        let since = match self.health {
            Health::Synced { since, .. } => since,
            Health::Listing => heard,
            Health::Broken { .. } => {
                info!(kind = %self.scope.kind, "watch works again");
                self.recoveries.send_modify(|n_recoveries| *n_recoveries += 1);
                heard
            }
        };
        self.health = Health::Synced { since, heard };
        update.health.push((self.scope.kind, self.health.clone()));
        self.out.send(update).await.map_err(|_closed| Stopped)
    }

    async fn tell_health(&self) -> Result<(), Stopped> {
        let health = vec![(self.scope.kind, self.health.clone())];
        self.out
            .send(SourceUpdate { health, ..SourceUpdate::default() })
            .await
            .map_err(|_closed| Stopped)
    }

    /// Decides where to go on after a failure, and waits until it is time.
    async fn recover(
        &mut self,
        failure: Failure,
        phase: Phase,
        lasted: Duration,
    ) -> Result<(), Stopped> {
        let kind = self.scope.kind;
        let remedy = failure.remedy(phase, lasted);
        debug!(%kind, %failure, ?remedy, n_failures = self.retry.n_failures(), "watch interrupted");
        match remedy {
            Remedy::OnlyPages => self.may_stream = false,
            Remedy::NewList | Remedy::Relist => self.version = None,
            Remedy::Pages | Remedy::GoOn | Remedy::Retry => {}
        }
        self.avoids_streaming = phase == Phase::StreamingList;
        if remedy == Remedy::Relist && !self.is_relisted {
            self.is_relisted = true;
            return Ok(());
        }
        let mut recoveries = self.recoveries.subscribe();
        if lasted >= MIN_WATCH && !matches!(failure, Failure::Request(_)) {
            self.retry.reset();
        }
        if matches!(remedy, Remedy::Pages | Remedy::OnlyPages) {
            return Ok(());
        }
        let goes_on = remedy == Remedy::GoOn;
        let delay = if goes_on { Duration::ZERO } else { self.retry.next_delay() };
        if failure.is_serious() || self.retry.n_failures() > N_HARMLESS_FAILURES {
            self.break_down(&failure).await?;
        }
        tokio::select! {
            () = sleep(delay) => {}
            // An error says that the sender is gone, which is held here.
            _ = recoveries.changed() => {}
            () = self.out.closed() => return Err(Stopped),
        }
        if failure.wants_new_client() {
            match self.access.renew(self.latest.number).await {
                Ok(()) => {
                    self.latest = self.access.latest();
                    self.unrenewed = None;
                }
                Err(error) => self.unrenewed = Some(error),
            }
        }
        Ok(())
    }

    /// Tells that the watch does not work.
    async fn break_down(&mut self, failure: &Failure) -> Result<(), Stopped> {
        let error: Arc<str> = match &self.unrenewed {
            None => Arc::from(failure.to_string()),
            Some(cause) => {
                Arc::from(format!("{failure}; the configuration cannot be read again: {cause}"))
            }
        };
        let since = match &self.health {
            Health::Broken { since, .. } => *since,
            Health::Listing | Health::Synced { .. } => Instant::now().into_std(),
        };
        let health = Health::Broken { since, error: Arc::clone(&error) };
        if health == self.health {
            return Ok(());
        }
        warn!(kind = %self.scope.kind, failure = &*error, "watch does not work");
        self.health = health;
        self.tell_health().await
    }
}
