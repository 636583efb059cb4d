//! How long changes and new pods wait: from the event to the kernel, and from the plugin's call to its answer.
//!
//! In: moments, told by the event loop. Out: histograms. Must not: read a clock.

use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;

/// Upper bounds of the buckets, in seconds: from the cheapest change to an ADD that is about to be refused.
const BOUNDS_S: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 20.0];
/// Changes that are waited for one by one. While the kernel refuses a change there may be more; the oldest count.
const MAX_WAITING: usize = 1024;

/// The waiting times so far.
#[derive(Debug)]
pub(super) struct Latencies {
    /// When the changes arrived that are not in force yet, in order.
    waiting: Vec<Instant>,
    /// When the ADDs were asked that have been answered since the last look at the clock.
    answered: Vec<Instant>,
    changes: Histogram,
    adds: Histogram,
    /// The latest look at the clock.
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
    /// A change has arrived that the maps must follow.
    pub(super) fn begin(&mut self, arrived: Instant) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push(arrived);
        }
    }

    /// An ADD has been answered with success.
    pub(super) fn answer(&mut self, asked: Instant) {
        self.answered.push(asked);
    }

    /// The maps follow all changes that have arrived.
    pub(super) fn reach(&mut self, now: Instant) {
        self.now = Some(now);
        for arrived in self.waiting.drain(..) {
            self.changes.observe(now.saturating_duration_since(arrived).as_secs_f64());
        }
    }

    /// Looks at the clock for the ADDs that have been answered.
    pub(super) fn look(&mut self, now: Instant) {
        self.now = Some(now);
        for asked in self.answered.drain(..) {
            self.adds.observe(now.saturating_duration_since(asked).as_secs_f64());
        }
    }

    /// How long the oldest change waits that is not in force yet.
    pub(super) fn lag(&self) -> Option<Duration> {
        self.waiting.first().map(|arrived| self.since(*arrived))
    }

    /// The time from a moment to the latest look at the clock.
    pub(super) fn since(&self, moment: Instant) -> Duration {
        self.now.map_or(Duration::ZERO, |now| now.saturating_duration_since(moment))
    }

    /// From the arrival of a change to the moment at which the maps follow it.
    pub(super) fn changes(&self) -> Histogram {
        self.changes.clone()
    }

    /// From the plugin's call to its answer.
    pub(super) fn adds(&self) -> Histogram {
        self.adds.clone()
    }
}
