//! When pods are looked for: at once when there are others to look for than before, and again every few seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::warn;

use crate::discovery::{self, Found, Places, Search};

/// After so long the same pods are looked for again.
const AGAIN: Duration = Duration::from_secs(3);

/// Runs one search at a time, beside the event loop.
#[derive(Debug)]
pub(super) struct Searches {
    places: Arc<Places>,
    latest: Option<(Search, Instant)>,
    found_in: mpsc::Sender<Vec<Found>>,
}

impl Searches {
    /// Also the end where finds arrive.
    pub(super) fn new(places: Places) -> (Self, mpsc::Receiver<Vec<Found>>) {
        let (found_in, found) = mpsc::channel(1);
        (Self { places: Arc::new(places), latest: None, found_in }, found)
    }

    /// Looks, unless a search is under way or has just been made for the same.
    pub(super) fn look(&mut self, wanted: Search, now: Instant) {
        let is_same = self.latest.as_ref().is_some_and(|(latest, _)| *latest == wanted);
        let is_recent = self.latest.as_ref().is_some_and(|(_, at)| now < *at + AGAIN);
        if is_same && (is_recent || wanted.is_empty()) {
            return;
        }
        // The permit is held while the search runs.
        let Ok(found_in) = self.found_in.clone().try_reserve_owned() else { return };
        self.latest = Some((wanted.clone(), now));
        let places = Arc::clone(&self.places);
        tokio::task::spawn_blocking(move || {
            let found = if wanted.is_empty() {
                Ok(Vec::new())
            } else {
                discovery::search(&places, &wanted)
            };
            found_in.send(found.unwrap_or_else(|error| {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "pods that run already are not found"
                );
                Vec::new()
            }));
        });
    }
}
