//! When it is collected what the packets of pods have left that are gone: beside the event loop, for all of them together.
//!
//! To read the maps takes some ten milliseconds when they are full, and is the same for one pod as for a hundred. So it begins
//! when no pod comes or goes for a moment, and where pods come and go without end once in a while.

use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::{Agent, Kernel};

/// After the last ADD or DEL, others may follow for so long.
const CALM: Duration = Duration::from_millis(250);
/// What is left is not left for longer, whoever comes and goes.
const PATIENCE: Duration = Duration::from_secs(1);

/// The garbage collection that is to come.
#[derive(Debug, Default)]
pub(super) struct GcSchedule {
    /// Since when something is left.
    since: Option<Instant>,
    latest_call: Option<Instant>,
    is_under_way: bool,
}

impl GcSchedule {
    /// A pod comes or goes.
    pub(super) fn note_call(&mut self, now: Instant) {
        self.latest_call = Some(now);
    }

    /// When the next garbage collection begins, if something is left.
    fn due(&self) -> Option<Instant> {
        let since = self.since.filter(|_| !self.is_under_way)?;
        let calm = self.latest_call.map_or(since, |call| call.max(since) + CALM);
        Some(calm.min(since + PATIENCE))
    }
}

impl<K: Kernel> Agent<K> {
    /// When [`Agent::begin_gc`] has something to do; it has to be asked after each step.
    pub fn next_gc(&self) -> Option<Instant> {
        self.gc_schedule.due()
    }

    /// The next garbage collection, if it is time for one. It is to be [run](Kernel::run_gc) beside the event loop, and ended.
    pub fn begin_gc(&mut self, now: Instant) -> Option<K::MapGc> {
        if self.gc_schedule.is_under_way {
            return None;
        }
        if self.kernel.n_awaiting_gc() == 0 {
            self.gc_schedule.since = None;
            return None;
        }
        self.gc_schedule.since.get_or_insert(now);
        if self.gc_schedule.due().is_none_or(|due| due > now) {
            return None;
        }
        // Unless it is done by then it is tried again later, not at once.
        self.gc_schedule.since = Some(now + PATIENCE);
        match self.kernel.begin_gc() {
            Ok(map_gc) => {
                self.gc_schedule.is_under_way = map_gc.is_some();
                map_gc
            }
            Err(error) => {
                warn!(%error, "connections of pods that are gone are still known");
                None
            }
        }
    }

    /// Takes in a garbage collection that has been run.
    pub fn end_gc(&mut self, map_gc: K::MapGc, now: Instant) {
        self.gc_schedule.is_under_way = false;
        match self.kernel.end_gc(map_gc) {
            Ok(n_entries) => {
                self.gc_schedule.since = None;
                debug!(n_entries, "what pods that are gone have left is collected");
            }
            Err(error) => {
                self.gc_schedule.since = Some(now + PATIENCE);
                warn!(%error, "connections of pods that are gone are still known");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netpol_proto::{Request, Response};

    use super::super::tests::{attachment, fixture, full_lists, pod, update};
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn a_collection_waits_for_calm_but_not_for_long() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut gc_schedule = GcSchedule::default();
        gc_schedule.note_call(at(0));
        assert_eq!(gc_schedule.due(), None, "nothing is left");
        gc_schedule.since = Some(at(1));
        assert_eq!(gc_schedule.due(), Some(at(251)));
        gc_schedule.note_call(at(200));
        assert_eq!(gc_schedule.due(), Some(at(450)));
        gc_schedule.note_call(at(900));
        assert_eq!(gc_schedule.due(), Some(at(1001)));
        gc_schedule.is_under_way = true;
        assert_eq!(gc_schedule.due(), None);
    }

    #[test]
    fn what_a_pod_has_left_is_collected_up_after_its_del_by_one_collection_at_a_time() {
        let mut fixture = fixture();
        drop(fixture.agent.update(full_lists()));
        drop(fixture.agent.update(update(pod("a"))));
        assert_eq!(fixture.add().try_recv(), Ok(Response::Ok));
        let now = fixture.now;
        assert_eq!(fixture.agent.begin_gc(now), None);
        drop(fixture.call(Request::Del(attachment())));
        assert_eq!(fixture.agent.describe().n_awaiting_gc, 1);
        assert_eq!(fixture.agent.begin_gc(now), None, "other pods may go");
        assert_eq!(fixture.agent.next_gc(), Some(now + CALM));
        let map_gc = fixture.agent.begin_gc(now + CALM).unwrap();
        assert_eq!(fixture.agent.begin_gc(now + PATIENCE), None, "one is under way");
        assert_eq!(fixture.agent.next_gc(), None);
        fixture.agent.kernel.refuses_gc = true;
        fixture.agent.end_gc(map_gc, now + CALM);
        assert!(fixture.agent.next_gc() > Some(now + CALM + PATIENCE), "not again at once");
        let later = now + 3 * PATIENCE;
        let map_gc = fixture.agent.begin_gc(later).unwrap();
        fixture.agent.kernel.refuses_gc = false;
        fixture.agent.end_gc(map_gc, later);
        assert_eq!(fixture.agent.describe().n_awaiting_gc, 0);
        assert_eq!(fixture.agent.begin_gc(later + PATIENCE), None, "nothing is left");
        assert_eq!(fixture.agent.next_gc(), None);
    }
}
