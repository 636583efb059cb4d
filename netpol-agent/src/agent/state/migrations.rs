//! When endpoints migrate from clsact filters to TCX links: while no pod is added or removed, one after the other.
//!
//! Creating a link takes the kernel's lock on all devices, and delays everyone who changes a device, new pods above all.
//! So a migration waits until the node has been calm for a while. A filter that has waited long migrates in any case,
//! at a limited rate.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use netpol_common::ids::IfIndex;

/// Time without ADD and DEL after which the node counts as calm.
const CALM: Duration = Duration::from_secs(2);
/// Longest time that a migration waits for calm, because on a busy node pods are added and removed all the time.
const PATIENCE: Duration = Duration::from_mins(1);
/// Time between two migrations that have not waited for calm.
const PAUSE: Duration = Duration::from_secs(1);

/// The interfaces that may be attached through clsact filters.
#[derive(Debug, Default)]
pub(in crate::agent) struct Migrations {
    /// When each began to wait; `None` until the first [`Migrations::next`] after it was added.
    waiting: BTreeMap<IfIndex, Option<Instant>>,
    latest_call: Option<Instant>,
    latest_end: Option<Instant>,
    under_way: Option<IfIndex>,
}

impl Migrations {
    /// Adds an interface to which programs have been attached, through filters or links.
    pub(in crate::agent) fn expect(&mut self, ifindex: IfIndex) {
        self.waiting.insert(ifindex, None);
    }

    /// Removes an interface that is no endpoint any more, or that cannot migrate.
    pub(in crate::agent) fn remove(&mut self, ifindex: IfIndex) {
        self.waiting.remove(&ifindex);
    }

    /// Records that an ADD or a DEL has been called.
    pub(in crate::agent) fn record_call(&mut self, now: Instant) {
        self.latest_call = Some(now);
    }

    /// Whether a migration has begun and not ended.
    pub(in crate::agent) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether a migration of this interface has begun and not ended.
    pub(in crate::agent) fn is_under_way_at(&self, ifindex: IfIndex) -> bool {
        self.under_way == Some(ifindex)
    }

    /// Records the begin of a migration.
    pub(in crate::agent) fn begin(&mut self, ifindex: IfIndex) {
        self.under_way = Some(ifindex);
    }

    /// Records the end of a migration.
    pub(in crate::agent) fn end(&mut self, now: Instant) {
        self.under_way = None;
        self.latest_end = Some(now);
    }

    /// The next interface to migrate, if it is time.
    pub(in crate::agent) fn next(&mut self, now: Instant) -> Option<IfIndex> {
        let has_passed = |time: Duration, since: Option<Instant>| {
            since.is_none_or(|since| now.saturating_duration_since(since) >= time)
        };
        let is_calm = has_passed(CALM, self.latest_call);
        let pause_is_over = has_passed(PAUSE, self.latest_end);
        self.waiting.iter_mut().find_map(|(ifindex, since)| {
            let since = *since.get_or_insert(now);
            let is_overdue = pause_is_over && has_passed(PATIENCE, Some(since));
            (is_calm || is_overdue).then_some(*ifindex)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn a_migration_waits_for_calm_for_at_most_a_minute() {
        let begin = Instant::now();
        let at = |s: u64| begin + Duration::from_secs(s);
        let mut migrations = Migrations::default();
        migrations.expect(IfIndex(7));
        assert_eq!(migrations.next(at(0)), Some(IfIndex(7)), "no call so far");
        migrations.record_call(at(0));
        assert_eq!(migrations.next(at(1)), None);
        assert_eq!(migrations.next(at(2)), Some(IfIndex(7)));
        for second in 3..60 {
            migrations.record_call(at(second));
            assert_eq!(migrations.next(at(second)), None, "{second}");
        }
        migrations.record_call(at(60));
        assert_eq!(migrations.next(at(60)), Some(IfIndex(7)), "waited for a minute");
        migrations.latest_end = Some(at(60));
        migrations.expect(IfIndex(8));
        assert_eq!(migrations.next(at(60)), None, "two at once");
        assert_eq!(migrations.next(at(61)), Some(IfIndex(7)));
        migrations.remove(IfIndex(7));
        assert_eq!(migrations.next(at(61)), None, "the other has not waited for a minute");
    }
}
