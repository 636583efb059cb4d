//! Garbage collection: connections, counters and the like of removed endpoints leave the maps.

use std::time::Instant;

use netpol_policy::dataplane::port::Kernel;
use tracing::{debug, warn};

use crate::agent::state::Agent;

impl<K: Kernel> Agent<K> {
    /// When [`Agent::begin_gc`] has something to do. To be asked again after each step of the event loop.
    pub fn next_gc(&self) -> Option<Instant> {
        self.gc_schedule.due()
    }

    /// Begins the next garbage collection, if it is time. The caller [runs](netpol_policy::dataplane::port::Flows::run_gc) it
    /// on the worker thread, and passes the result to [`Agent::end_gc`].
    pub fn begin_gc(&mut self, now: Instant) -> Option<K::MapGc> {
        if self.gc_schedule.is_under_way() {
            return None;
        }
        if self.kernel.n_awaiting_gc() == 0 {
            self.gc_schedule.clear();
            return None;
        }
        if !self.gc_schedule.is_due(now) {
            return None;
        }
        self.gc_schedule.retry(now);
        // The counters of removed endpoints are about to go.
        if let Err(error) = self.observe_drops() {
            warn!(%error, "drops of removed endpoints not read");
        }
        match self.kernel.begin_gc() {
            Ok(Some(map_gc)) => {
                self.gc_schedule.begin();
                Some(map_gc)
            }
            Ok(None) => None,
            Err(error) => {
                warn!(%error, "map garbage collection failed");
                None
            }
        }
    }

    /// Finishes a garbage collection that has been run.
    pub fn end_gc(&mut self, map_gc: K::MapGc, now: Instant) {
        self.gc_schedule.end();
        match self.kernel.end_gc(map_gc) {
            Ok(n_entries) => {
                self.gc_schedule.clear();
                debug!(n_entries, "entries of removed endpoints collected");
            }
            Err(error) => {
                self.gc_schedule.retry(now);
                warn!(%error, "map garbage collection failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netpol_proto::{Request, Response};

    use crate::agent::state::gc_schedule::{CALM, PATIENCE};
    use crate::agent::tests::{attachment, fixture, full_lists, pod, update};

    #[test]
    fn entries_of_a_pod_are_collected_after_its_del_by_one_collection_at_a_time() {
        let mut fixture = fixture();
        drop(fixture.agent.update(full_lists()));
        drop(fixture.agent.update(update(pod("a"))));
        assert_eq!(fixture.add().try_recv(), Ok(Response::Ok));
        let now = fixture.now;
        assert_eq!(fixture.agent.begin_gc(now), None);
        drop(fixture.call(Request::Del(attachment())));
        assert_eq!(fixture.agent.describe().n_awaiting_gc, 1);
        assert_eq!(fixture.agent.begin_gc(now), None, "other pods may be removed");
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
        assert_eq!(fixture.agent.begin_gc(later + PATIENCE), None, "nothing to collect");
        assert_eq!(fixture.agent.next_gc(), None);
    }
}
