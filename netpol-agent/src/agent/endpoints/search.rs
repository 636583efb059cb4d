//! When running pods are searched for: at once when what is wanted changes or the runtime has written a result, and again every
//! few seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::warn;

use crate::discovery::{self, Found, Search, SearchPaths};

/// Time after which a search for the same pods is repeated.
const INTERVAL: Duration = Duration::from_secs(3);

/// Runs one search at a time, on a thread of the runtime's pool.
#[derive(Debug)]
pub(in crate::agent) struct Searches {
    paths: Arc<SearchPaths>,
    latest: Option<(Search, Instant)>,
    /// The runtime has written a result since the latest search.
    has_new_results: bool,
    found_in: mpsc::Sender<Vec<Found>>,
}

impl Searches {
    /// Also returns the receiver of the results.
    pub(in crate::agent) fn new(paths: SearchPaths) -> (Self, mpsc::Receiver<Vec<Found>>) {
        let (found_in, found) = mpsc::channel(1);
        (Self { paths: Arc::new(paths), latest: None, has_new_results: false, found_in }, found)
    }

    /// Records that the runtime has written a result: the next search is no repetition.
    pub(in crate::agent) fn record_result(&mut self) {
        self.has_new_results = true;
    }

    /// Starts a search, unless one is under way or one for the same pods has just been made.
    pub(in crate::agent) fn start(&mut self, wanted: Search, now: Instant) {
        let is_same = self.latest.as_ref().is_some_and(|(latest, _)| *latest == wanted);
        let is_recent = self.latest.as_ref().is_some_and(|(_, at)| now < *at + INTERVAL);
        let is_pointless = if self.has_new_results {
            wanted.is_empty()
        } else {
            is_recent || !wanted.is_repeated()
        };
        if is_same && is_pointless {
            return;
        }
        // The permit is held while the search runs, so there is only one.
        let Ok(found_in) = self.found_in.clone().try_reserve_owned() else { return };
        self.latest = Some((wanted.clone(), now));
        self.has_new_results = false;
        let paths = Arc::clone(&self.paths);
        tokio::task::spawn_blocking(move || {
            let found =
                if wanted.is_empty() { Ok(Vec::new()) } else { discovery::search(&paths, &wanted) };
            found_in.send(found.unwrap_or_else(|error| {
                warn!(error = &error as &dyn std::error::Error, "search for running pods failed");
                Vec::new()
            }));
        });
    }
}
