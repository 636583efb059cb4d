//! Lists and watches one kind for as long as the agent runs.
//!
//! ```text
//!            ┌── list in pages ──┐
//! no version ┤       ▲ failed    ├─▶ version ─▶ watch ─▶ version ─▶ ...
//!            └── streaming list ─┘      ▲         │
//!                    ▲                  └─────────┤ closed, broken, dead, silent: the same version again
//!                    └────────────────────────────┘ 410 Gone, refused, garbled: a new list
//! ```
//! The version is where the next watch begins: every event up to it has been sent to the agent. Because no other state is kept,
//! the store always equals the last list plus the events after it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::Options;
use super::access::{Access, Error, Latest};
use super::decode::{self, Decoded, Event, Line};
use super::failure::{Failure, MIN_WATCH, Phase, Remedy, Stop, Stopped};
use super::listing::Listing;
use super::notice;
use super::request::{self, Lines, Scope};
use super::retry::{Retry, spread};
use netpol_policy::model::Diagnostic;
use netpol_policy::source::{Health, SourceUpdate};
use netpol_policy::store::Delta;

/// The duration that a watch request asks for, before up to a quarter is added.
const WATCH: Duration = Duration::from_mins(4);

/// After so many failures in a row a failure is reported even if it is not serious.
const N_HARMLESS_FAILURES: u32 = 3;

/// The list and watch of one kind.
pub(super) struct Follower {
    scope: Scope,
    access: Access,
    latest: Latest,
    options: Options,
    out: mpsc::Sender<SourceUpdate>,
    /// Where the next watch begins. Without one, a list is next.
    version: Option<Version>,
    /// Cleared when the server turns out not to support streaming lists.
    may_stream: bool,
    /// The last attempt was a streaming list and failed, so the next list comes in pages.
    avoids_streaming: bool,
    health: Health,
    retry: Retry,
    /// The kind was listed again because the version was too old, and no event has arrived since.
    is_relisted: bool,
    recoveries: Recoveries,
    /// Why the last attempt to read the configuration again failed.
    unrenewed: Option<Error>,
    /// Complete lists that have been sent.
    n_lists: u64,
    /// Called after each complete list.
    on_list: Option<Box<dyn Fn() + Send + Sync>>,
}

/// Why a list and watch ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The agent dropped the receiving end.
    Stopped,
    /// The server does not have the kind, which is none of its own, under this path.
    NotFound {
        /// A complete list was sent before.
        was_listed: bool,
    },
}

/// Counts recoveries of the watches of all kinds. Each one ends the retry delays of the other kinds.
pub(super) type Recoveries = watch::Sender<u64>;

/// A `resourceVersion`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version(String);

impl Version {
    /// Whether this version is older than `other`; false if they cannot be compared. The versions of a kind are increasing
    /// numbers: Kubernetes guarantees that from 1.35 on, and etcd did before.
    fn is_before(&self, other: &Self) -> bool {
        match (self.0.parse::<u64>(), other.0.parse::<u64>()) {
            (Ok(this), Ok(other)) => this < other,
            _ => false,
        }
    }
}

impl Follower {
    /// The list and watch of `scope`, which begin in [`Follower::run`].
    pub(super) fn new(
        scope: Scope,
        access: Access,
        options: Options,
        out: mpsc::Sender<SourceUpdate>,
        recoveries: Recoveries,
    ) -> Self {
        Self {
            scope,
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
            n_lists: 0,
            on_list: None,
        }
    }

    /// Calls this after each complete list.
    pub(super) fn on_list(self, call: impl Fn() + Send + Sync + 'static) -> Self {
        Self { on_list: Some(Box::new(call)), ..self }
    }

    /// Lists and watches until the agent drops the receiving end, or the server does not have the kind any more.
    pub(super) async fn run(mut self) -> End {
        let mut sent = self.send_health().await;
        while sent.is_ok() {
            let began = Instant::now();
            let phase = match self.version {
                Some(_) => Phase::Watch,
                None if self.may_stream && !self.avoids_streaming => Phase::StreamingList,
                None => Phase::Pages,
            };
            sent = match self.follow(phase).await {
                Err(Stop::Failed(failure))
                    if self.scope.path.is_some() && failure.is_not_found() =>
                {
                    return End::NotFound { was_listed: self.n_lists > 0 };
                }
                Err(Stop::Failed(failure)) => {
                    // With a version the list is complete, so the watch after it failed.
                    let phase = if self.version.is_some() { Phase::Watch } else { phase };
                    self.recover(failure, phase, began.elapsed()).await
                }
                Err(Stop::Stopped) => Err(Stopped),
            };
        }
        End::Stopped
    }

    /// Lists if there is no version, then watches until something fails.
    async fn follow(&mut self, first: Phase) -> Result<Infallible, Stop> {
        if first == Phase::Pages {
            let listing = self.list().await?;
            self.send_list(listing).await?;
        }
        let version = self.version.as_ref().map(|version| version.0.as_str());
        let mut lines =
            request::watch(&self.latest.client, &self.scope, version, spread(WATCH)).await?;
        if first == Phase::StreamingList {
            let listing = self.stream_list(&mut lines).await?;
            self.send_list(listing).await?;
        } else {
            self.send(SourceUpdate::default()).await?;
        }
        let patience = self.options.patience;
        loop {
            let line = timeout(patience, lines.next()).await;
            let line = line.map_err(|_elapsed| Failure::Silent(patience))??;
            self.process(decode::line(self.scope.kind, line)?).await?;
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

    /// Reads the first lines of a watch as a list, up to the bookmark that marks the end of the list.
    async fn stream_list(&self, lines: &mut Lines) -> Result<Listing, Failure> {
        let mut listing = Listing::new(self.scope.kind);
        loop {
            let line = timeout(self.options.streaming_patience, lines.next()).await;
            // A server without streaming lists sends the existing objects too, but never that bookmark.
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
                Line::Error(json) => return Err(notice::error_event(json)),
                Line::Unknown(_) => return Err(Failure::NoStreamingList),
            }
        }
    }

    /// Processes one line of a watch.
    async fn process(&mut self, line: Line<'_>) -> Result<(), Stop> {
        let update = match line {
            Line::Object(event, decoded) => self.convert(event, decoded),
            Line::Bookmark(json) => {
                self.advance(notice::bookmark(json)?.resource_version);
                SourceUpdate::default()
            }
            Line::Error(json) => return Err(notice::error_event(json).into()),
            Line::Unknown(event) => {
                debug!(kind = %self.scope.kind, %event, "watch event of an unknown type");
                SourceUpdate::default()
            }
        };
        Ok(self.send(update).await?)
    }

    /// Converts an event about one object.
    fn convert(&mut self, event: Event, decoded: Result<Decoded, Diagnostic>) -> SourceUpdate {
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
            // Events arrive in the order of their versions, so this one is a repetition.
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

    /// Sets the version where the next watch begins, unless the new one is older or empty.
    fn advance(&mut self, version: String) {
        let version = Version(version);
        let is_back = self.version.as_ref().is_some_and(|newest| version.is_before(newest));
        if !version.0.is_empty() && !is_back {
            self.version = Some(version);
        }
    }

    /// Sends a complete list to the agent.
    async fn send_list(&mut self, listing: Listing) -> Result<(), Stopped> {
        let version = listing.version.clone();
        info!(kind = %self.scope.kind, n_objects = listing.n_entries(), version, "listed");
        self.version = Some(Version(version));
        self.send(listing.into_update()).await?;
        self.n_lists += 1;
        if let Some(call) = &self.on_list {
            call();
        }
        Ok(())
    }

    /// Sends an update to the agent, with the time at which the server was heard.
    async fn send(&mut self, mut update: SourceUpdate) -> Result<(), Stopped> {
        let heard = Instant::now().into_std();
        let since = match self.health {
            Health::Synced { since, .. } => since,
            Health::Listing | Health::Unserved => heard,
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

    /// Sends the health of the kind to the agent.
    async fn send_health(&self) -> Result<(), Stopped> {
        let health = vec![(self.scope.kind, self.health.clone())];
        self.out
            .send(SourceUpdate { health, ..SourceUpdate::default() })
            .await
            .map_err(|_closed| Stopped)
    }

    /// Decides how to continue after a failure, and waits for the delay.
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
            self.report_failure(&failure).await?;
        }
        tokio::select! {
            () = sleep(delay) => {}
            // Never an error, because `self` holds the sender.
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

    /// Reports that the watch does not work.
    async fn report_failure(&mut self, failure: &Failure) -> Result<(), Stopped> {
        let error: Arc<str> = match &self.unrenewed {
            None => Arc::from(failure.to_string()),
            Some(cause) => {
                Arc::from(format!("{failure}; the configuration cannot be read again: {cause}"))
            }
        };
        let since = match &self.health {
            Health::Broken { since, .. } => *since,
            Health::Listing | Health::Synced { .. } | Health::Unserved => Instant::now().into_std(),
        };
        let health = Health::Broken { since, error: Arc::clone(&error) };
        if health == self.health {
            return Ok(());
        }
        warn!(kind = %self.scope.kind, failure = &*error, "watch does not work");
        self.health = health;
        if self.scope.path.is_some() && self.n_lists == 0 && failure.is_forbidden() {
            // The role is older than this agent: other policies must not wait for that.
            let health = [Health::Unserved, self.health.clone()];
            let health = health.map(|health| (self.scope.kind, health)).to_vec();
            let update = SourceUpdate { health, ..SourceUpdate::default() };
            return self.out.send(update).await.map_err(|_closed| Stopped);
        }
        self.send_health().await
    }
}
