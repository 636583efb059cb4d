//! When the map entries of removed endpoints are collected: for all of them together, on the worker thread.
//!
//! A collection reads the maps, which takes some ten milliseconds when they are full, and as long for one endpoint as
//! for a hundred. So it begins when no pod has been added or removed for a moment, and at the latest after a second.

use std::time::{Duration, Instant};

/// Time without ADD and DEL after which a collection begins.
pub(in crate::agent) const CALM: Duration = Duration::from_millis(250);
/// Longest time that a collection waits for calm; also the time after which a failed one is repeated.
pub(in crate::agent) const PATIENCE: Duration = Duration::from_secs(1);

/// The schedule of the next garbage collection.
#[derive(Debug, Default)]
pub(in crate::agent) struct GcSchedule {
    /// When the oldest removed endpoint began to wait.
    since: Option<Instant>,
    latest_call: Option<Instant>,
    is_under_way: bool,
}

impl GcSchedule {
    /// Records that an ADD or a DEL has been called.
    pub(in crate::agent) fn record_call(&mut self, now: Instant) {
        self.latest_call = Some(now);
    }

    /// When the next garbage collection begins, if there is anything to collect.
    pub(in crate::agent) fn due(&self) -> Option<Instant> {
        let since = self.since.filter(|_| !self.is_under_way)?;
        let calm = self.latest_call.map_or(since, |call| call.max(since) + CALM);
        Some(calm.min(since + PATIENCE))
    }

    /// Whether a collection has begun and not ended.
    pub(in crate::agent) fn is_under_way(&self) -> bool {
        self.is_under_way
    }

    /// There is nothing to collect.
    pub(in crate::agent) fn clear(&mut self) {
        self.since = None;
    }

    /// There is something to collect. Returns whether a collection is due.
    pub(in crate::agent) fn is_due(&mut self, now: Instant) -> bool {
        self.since.get_or_insert(now);
        self.due().is_some_and(|due| due <= now)
    }

    /// Records the begin of a collection.
    pub(in crate::agent) fn begin(&mut self) {
        self.is_under_way = true;
    }

    /// Records the end of a collection.
    pub(in crate::agent) fn end(&mut self) {
        self.is_under_way = false;
    }

    /// Repeats a collection that failed, after [`PATIENCE`] and not at once.
    pub(in crate::agent) fn retry(&mut self, now: Instant) {
        self.since = Some(now + PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn a_collection_waits_for_calm_for_at_most_a_second() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut gc_schedule = GcSchedule::default();
        gc_schedule.record_call(at(0));
        assert_eq!(gc_schedule.due(), None, "nothing to collect");
        gc_schedule.since = Some(at(1));
        assert_eq!(gc_schedule.due(), Some(at(251)));
        gc_schedule.record_call(at(200));
        assert_eq!(gc_schedule.due(), Some(at(450)));
        gc_schedule.record_call(at(900));
        assert_eq!(gc_schedule.due(), Some(at(1001)));
        gc_schedule.is_under_way = true;
        assert_eq!(gc_schedule.due(), None);
    }
}
