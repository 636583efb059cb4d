//! Latencies: from the arrival of a change to the maps, and from a CNI ADD to its answer.
//!
//! In: the times of events, from the event loop. Out: histograms. Must not: read a clock.

use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;

/// Upper bounds of the buckets, in seconds: from the cheapest change to an ADD that is about to be refused.
const BOUNDS_S: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 20.0];
/// Changes that are measured one by one. More may wait while the kernel refuses an update; then the oldest count.
const MAX_WAITING: usize = 1024;

/// The latencies so far.
#[derive(Debug)]
pub(in crate::agent) struct Latencies {
    /// Arrivals of the changes that are not in force yet, in order.
    waiting: Vec<Instant>,
    /// Arrivals of the ADDs that have been answered since `now`.
    answered: Vec<Instant>,
    changes: Histogram,
    adds: Histogram,
    /// The latest known time.
    now: Option<Instant>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            answered: Vec::new(),
            changes: Histogram::new(BOUNDS_S),
            adds: Histogram::new(BOUNDS_S),
            now: None,
        }
    }
}

impl Latencies {
    /// Records the arrival of a change that the maps must follow.
    pub(in crate::agent) fn begin(&mut self, arrived: Instant) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push(arrived);
        }
    }

    /// Records an ADD that has been answered with success.
    pub(in crate::agent) fn record_add(&mut self, asked: Instant) {
        self.answered.push(asked);
    }

    /// Observes the latency of all changes that have arrived: the maps follow them now.
    pub(in crate::agent) fn observe_changes(&mut self, now: Instant) {
        self.now = Some(now);
        for arrived in self.waiting.drain(..) {
            self.changes.observe(now.saturating_duration_since(arrived).as_secs_f64());
        }
    }

    /// Observes the latency of the ADDs that have been answered.
    pub(in crate::agent) fn observe_adds(&mut self, now: Instant) {
        self.now = Some(now);
        for asked in self.answered.drain(..) {
            self.adds.observe(now.saturating_duration_since(asked).as_secs_f64());
        }
    }

    /// Age of the oldest change that is not in force yet.
    pub(in crate::agent) fn lag(&self) -> Option<Duration> {
        self.waiting.first().map(|arrived| self.since(*arrived))
    }

    /// Time from a moment to the latest known time.
    pub(in crate::agent) fn since(&self, moment: Instant) -> Duration {
        self.now.map_or(Duration::ZERO, |now| now.saturating_duration_since(moment))
    }

    /// Latency of changes, in seconds.
    pub(in crate::agent) fn changes(&self) -> Histogram {
        self.changes.clone()
    }

    /// Latency of CNI ADDs, in seconds.
    pub(in crate::agent) fn adds(&self) -> Histogram {
        self.adds.clone()
    }
}
