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

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::Options;
use super::access::{Access, Error, Latest};
use super::decode;
use super::failure::{Beginning, Failure, MIN_WATCH, Remedy};
use super::listing::Listing;
use super::request::{self, End, Line, Lines, Page, Scope};
use super::retry::{Retry, spread};
use crate::model::Kind;
use crate::source::{Health, SourceUpdate};
use crate::store::Delta;

/// How long the server is asked to keep up a watch, plus up to a quarter.
const WATCH: Duration = Duration::from_mins(4);

/// Failures in a row, none of them serious, that are serious together.
const N_HARMLESS_FAILURES: u32 = 3;

/// The annotation of the bookmark that ends a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

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
    health: Health,
    retry: Retry,
}

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

/// The object of a bookmark.
#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMetadata {
    resource_version: String,
    annotations: Option<BTreeMap<String, String>>,
}

/// The object of an error event.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
    reason: String,
    message: String,
}

impl Follower {
    /// Follows `kind`, once it runs.
    pub(super) fn new(
        kind: Kind,
        access: Access,
        options: Options,
        out: mpsc::Sender<SourceUpdate>,
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
            health: Health::Listing,
        }
    }

    /// Follows until the agent listens no longer.
    pub(super) async fn run(mut self) {
        let mut told = self.tell_health().await;
        while told.is_ok() {
            let began = Instant::now();
            let beginning = match self.version {
                Some(_) => Beginning::Version,
                None if self.may_stream => Beginning::StreamingList,
                None => Beginning::Pages,
            };
            told = match self.follow(beginning).await {
                Err(Stop::Failed(failure)) => {
                    self.recover(failure, beginning, began.elapsed()).await
                }
                Err(Stop::Stopped) => Err(Stopped),
            };
        }
    }

    /// Lists if need be, then watches for as long as that works.
    async fn follow(&mut self, beginning: Beginning) -> Result<Infallible, Stop> {
        if beginning == Beginning::Pages {
            let listing = self.list().await?;
            self.deliver(listing).await?;
        }
        let version = self.version.as_ref().map(|version| version.0.as_str());
        let mut lines =
            request::watch(&self.latest.client, &self.scope, version, spread(WATCH)).await?;
        if beginning == Beginning::StreamingList {
            let listing = self.stream_list(&mut lines).await?;
            self.deliver(listing).await?;
        } else {
            self.tell(SourceUpdate::default()).await?;
        }
        let patience = self.options.patience;
        loop {
            let line = timeout(patience, lines.next()).await;
            let line = line.map_err(|_elapsed| Failure::Silent(patience))??;
            self.take(line).await?;
            self.retry.reset();
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
            let page: Page<'_> = serde_json::from_str(&json)?;
            for item in page.items.unwrap_or_default() {
                listing.add(item.get());
            }
            listing.version = page.metadata.resource_version;
            next = page.metadata.next.filter(|next| !next.is_empty());
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
            let Line { event, object } = line.map_err(|_elapsed| Failure::NoStreamingList)??;
            match &*event {
                "ADDED" | "MODIFIED" => listing.add(object.get()),
                "BOOKMARK" => {
                    let metadata = bookmark(object.get())?;
                    let annotations = metadata.annotations.unwrap_or_default();
                    if !annotations.contains_key(INITIAL_EVENTS_END) {
                        return Err(Failure::NoStreamingList);
                    }
                    listing.version = metadata.resource_version;
                    return Ok(listing);
                }
                "DELETED" => listing.remove(object.get()),
                "ERROR" => return Err(given_up(object.get())),
                _ => return Err(Failure::NoStreamingList),
            }
        }
    }

    /// Takes one line of a watch.
    async fn take(&mut self, Line { event, object }: Line<'_>) -> Result<(), Stop> {
        let update = match &*event {
            "ADDED" | "MODIFIED" | "DELETED" => self.take_event(&event, object.get()),
            "BOOKMARK" => {
                self.advance(bookmark(object.get())?.resource_version);
                SourceUpdate::default()
            }
            "ERROR" => return Err(given_up(object.get()).into()),
            _ => {
                debug!(kind = %self.scope.kind, %event, "watch event of an unknown type");
                SourceUpdate::default()
            }
        };
        Ok(self.tell(update).await?)
    }

    /// Takes an event about one object.
    fn take_event(&mut self, event: &str, json: &str) -> SourceUpdate {
        let mut update = SourceUpdate::default();
        let head = match decode::head(self.scope.kind, json) {
            Ok(head) => head,
            Err(found) => {
                update.diagnostics.push((found.object.clone(), vec![found]));
                return update;
            }
        };
        let version = Version(head.version.clone());
        if self.version.as_ref().is_some_and(|newest| version.is_before(newest)) {
            // Events come in the order of their versions: what this one says is known to be over.
            debug!(object = %head.object, version = version.0, "stale watch event");
            return update;
        }
        if event == "DELETED" {
            update.deltas.push(Delta::Remove { object: head.object, uid: head.uid });
        } else {
            let (object, found) = decode::object(&head, json);
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
        info!(kind = %self.scope.kind, version, "listed");
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
        beginning: Beginning,
        lasted: Duration,
    ) -> Result<(), Stopped> {
        let kind = self.scope.kind;
        let remedy = failure.remedy(beginning, lasted);
        debug!(%kind, %failure, ?remedy, n_failures = self.retry.n_failures(), "watch interrupted");
        match remedy {
            Remedy::Pages => self.may_stream = false,
            Remedy::NewList => self.version = None,
            Remedy::GoOn | Remedy::Retry => {}
        }
        if lasted >= MIN_WATCH && !matches!(failure, Failure::Request(_)) {
            self.retry.reset();
        }
        if matches!(remedy, Remedy::Pages | Remedy::GoOn) {
            return Ok(());
        }
        let delay = self.retry.next_delay();
        if failure.is_serious() || self.retry.n_failures() > N_HARMLESS_FAILURES {
            self.break_down(&failure).await?;
        }
        tokio::select! {
            () = sleep(delay) => {}
            () = self.out.closed() => return Err(Stopped),
        }
        if failure.wants_new_client() {
            match self.access.renew(self.latest.number).await {
                Ok(()) => self.latest = self.access.latest(),
                Err(error) => warn!(%kind, %error, "cannot read the configuration again"),
            }
        }
        Ok(())
    }

    /// Tells that the watch does not work.
    async fn break_down(&mut self, failure: &Failure) -> Result<(), Stopped> {
        let error: Arc<str> = Arc::from(failure.to_string());
        let since = match &self.health {
            Health::Broken { since, .. } => *since,
            Health::Listing | Health::Synced { .. } => Instant::now().into_std(),
        };
        let health = Health::Broken { since, error };
        if health == self.health {
            return Ok(());
        }
        warn!(kind = %self.scope.kind, %failure, "watch does not work");
        self.health = health;
        self.tell_health().await
    }
}

fn bookmark(json: &str) -> Result<BookmarkMetadata, Failure> {
    let Bookmark { metadata } = serde_json::from_str(json).map_err(End::Garbled)?;
    Ok(metadata)
}

fn given_up(json: &str) -> Failure {
    let Status { code, reason, message } = serde_json::from_str(json).unwrap_or_default();
    Failure::GivenUp { code, reason, message }
}
