//! When it is swept up what the packets of pods have left that are gone: beside the event loop, for all of them together.
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

/// The sweep that is to come.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    /// Since when something is left.
    since: Option<Instant>,
    latest_call: Option<Instant>,
    is_under_way: bool,
}

impl Sweeps {
    /// A pod comes or goes.
    pub(super) fn note_call(&mut self, now: Instant) {
        self.latest_call = Some(now);
    }

    /// When the next sweep begins, if something is left.
    fn due(&self) -> Option<Instant> {
        let since = self.since.filter(|_| !self.is_under_way)?;
        let calm = self.latest_call.map_or(since, |call| call.max(since) + CALM);
        Some(calm.min(since + PATIENCE))
    }
}

impl<K: Kernel> Agent<K> {
    /// When [`Agent::begin_sweep`] has something to do; it has to be asked after each step.
    pub fn next_sweep(&self) -> Option<Instant> {
        self.sweeps.due()
    }

    /// The next sweep, if it is time for one. It is to be [run](Kernel::run_sweep) beside the event loop, and ended.
    pub fn begin_sweep(&mut self, now: Instant) -> Option<K::Sweep> {
        if self.sweeps.is_under_way {
            return None;
        }
        if self.kernel.n_unswept() == 0 {
            self.sweeps.since = None;
            return None;
        }
        self.sweeps.since.get_or_insert(now);
        if self.sweeps.due().is_none_or(|due| due > now) {
            return None;
        }
        // Unless it is done by then it is tried again later, not at once.
        self.sweeps.since = Some(now + PATIENCE);
        match self.kernel.begin_sweep() {
            Ok(sweep) => {
                self.sweeps.is_under_way = sweep.is_some();
                sweep
            }
            Err(error) => {
                warn!(%error, "connections of pods that are gone are still known");
                None
            }
        }
    }

    /// Takes in a sweep that has been run.
    pub fn end_sweep(&mut self, sweep: K::Sweep, now: Instant) {
        self.sweeps.is_under_way = false;
        match self.kernel.end_sweep(sweep) {
            Ok(n_entries) => {
                self.sweeps.since = None;
                debug!(n_entries, "what pods that are gone have left is swept up");
            }
            Err(error) => {
                self.sweeps.since = Some(now + PATIENCE);
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
    fn a_sweep_waits_for_calm_but_not_for_long() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut sweeps = Sweeps::default();
        sweeps.note_call(at(0));
        assert_eq!(sweeps.due(), None, "nothing is left");
        sweeps.since = Some(at(1));
        assert_eq!(sweeps.due(), Some(at(251)));
        sweeps.note_call(at(200));
        assert_eq!(sweeps.due(), Some(at(450)));
        sweeps.note_call(at(900));
        assert_eq!(sweeps.due(), Some(at(1001)));
        sweeps.is_under_way = true;
        assert_eq!(sweeps.due(), None);
    }

    #[test]
    fn what_a_pod_has_left_is_swept_up_after_its_del_by_one_sweep_at_a_time() {
        let mut fixture = fixture();
        drop(fixture.agent.update(full_lists()));
        drop(fixture.agent.update(update(pod("a"))));
        assert_eq!(fixture.add().try_recv(), Ok(Response::Ok));
        let now = fixture.now;
        assert_eq!(fixture.agent.begin_sweep(now), None);
        drop(fixture.call(Request::Del(attachment())));
        assert_eq!(fixture.agent.describe().n_unswept, 1);
        assert_eq!(fixture.agent.begin_sweep(now), None, "other pods may go");
        assert_eq!(fixture.agent.next_sweep(), Some(now + CALM));
        let sweep = fixture.agent.begin_sweep(now + CALM).unwrap();
        assert_eq!(fixture.agent.begin_sweep(now + PATIENCE), None, "one is under way");
        assert_eq!(fixture.agent.next_sweep(), None);
        fixture.agent.kernel.refuses_sweep = true;
        fixture.agent.end_sweep(sweep, now + CALM);
        assert!(fixture.agent.next_sweep() > Some(now + CALM + PATIENCE), "not again at once");
        let later = now + 3 * PATIENCE;
        let sweep = fixture.agent.begin_sweep(later).unwrap();
        fixture.agent.kernel.refuses_sweep = false;
        fixture.agent.end_sweep(sweep, later);
        assert_eq!(fixture.agent.describe().n_unswept, 0);
        assert_eq!(fixture.agent.begin_sweep(later + PATIENCE), None, "nothing is left");
        assert_eq!(fixture.agent.next_sweep(), None);
    }
}
