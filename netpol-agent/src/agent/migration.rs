//! When the filters of new pods are exchanged for links: while no pod comes or goes, one after the other.
//!
//! A link makes everybody wait who changes a device, new pods above all. So an exchange waits until the node has been calm for a
//! while; a filter that has waited long goes even so, but seldom.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use netpol_common::ids::IfIndex;
use tracing::{debug, warn};

use super::{Agent, Kernel};
use netpol_policy::dataplane::port::Migrated;

/// After the last ADD or DEL the node counts as calm when so much time has passed.
const CALM: Duration = Duration::from_secs(2);
/// A node on which pods come and go without end is never calm: after so long an exchange does not wait for that any more.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two exchanges that have not waited for calm.
const PAUSE: Duration = Duration::from_secs(1);

/// The interfaces whose programs may hang on filters.
#[derive(Debug, Default)]
pub(super) struct Migrations {
    /// Since when, as far as a clock has been seen since then.
    waiting: BTreeMap<IfIndex, Option<Instant>>,
    latest_call: Option<Instant>,
    latest_migration: Option<Instant>,
    is_under_way: bool,
}

impl Migrations {
    /// Programs have been hung on an interface, by whatever the kernel had at hand.
    pub(super) fn expect(&mut self, ifindex: IfIndex) {
        self.waiting.insert(ifindex, None);
    }

    /// The interface is none of ours any more, or nothing more can be done for it.
    pub(super) fn forget(&mut self, ifindex: IfIndex) {
        self.waiting.remove(&ifindex);
    }

    /// A pod comes or goes.
    pub(super) fn note_call(&mut self, now: Instant) {
        self.latest_call = Some(now);
    }

    /// The interface whose turn it is.
    fn next(&mut self, now: Instant) -> Option<IfIndex> {
        let has_passed = |time: Duration, since: Option<Instant>| {
            since.is_none_or(|since| now.saturating_duration_since(since) >= time)
        };
        let is_calm = has_passed(CALM, self.latest_call);
        let may_insist = has_passed(PAUSE, self.latest_migration);
        self.waiting.iter_mut().find_map(|(ifindex, since)| {
            let since = *since.get_or_insert(now);
            let insists = may_insist && has_passed(PATIENCE, Some(since));
            (is_calm || insists).then_some(*ifindex)
        })
    }
}

impl<K: Kernel> Agent<K> {
    /// The next exchange, if it is time for one. It is to be [run](Kernel::run_migration) beside the event loop, and ended.
    pub fn begin_migration(&mut self, now: Instant) -> Option<K::Migration> {
        let is_busy = self.migrations.is_under_way
            || !self.is_primed
            || !self.unattached.is_empty()
            || self.kernel.has_predecessor();
        if is_busy {
            return None;
        }
        loop {
            let ifindex = self.migrations.next(now)?;
            match self.kernel.begin_migration(ifindex) {
                Ok(Some(migration)) => {
                    self.migrations.is_under_way = true;
                    return Some(migration);
                }
                Ok(None) => self.migrations.forget(ifindex),
                Err(error) => {
                    warn!(%ifindex, %error, "the programs stay on filters");
                    self.migrations.forget(ifindex);
                }
            }
        }
    }

    /// Takes in an exchange that has been run.
    pub fn end_migration(&mut self, ifindex: IfIndex, migration: K::Migration, now: Instant) {
        self.migrations.is_under_way = false;
        self.migrations.latest_migration = Some(now);
        let pod = self.state.endpoint(ifindex).map(|endpoint| endpoint.pod.to_string());
        match self.kernel.end_migration(migration) {
            Ok(Migrated::Yes) => {
                debug!(pod, %ifindex, "a program hangs on a link instead of a filter");
            }
            Ok(Migrated::Shared) => {
                debug!(pod, %ifindex, "a program stays on a filter, beside those of others");
                self.migrations.forget(ifindex);
            }
            Err(error) => {
                // It may have gone meanwhile: then it is no endpoint, or will not be one for long.
                warn!(pod, %ifindex, %error, "the programs stay on filters");
                self.migrations.forget(ifindex);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn an_migration_waits_for_calm_but_not_for_ever() {
        let begin = Instant::now();
        let at = |s: u64| begin + Duration::from_secs(s);
        let mut migrations = Migrations::default();
        migrations.expect(IfIndex(7));
        assert_eq!(migrations.next(at(0)), Some(IfIndex(7)), "nobody has called yet");
        migrations.note_call(at(0));
        assert_eq!(migrations.next(at(1)), None);
        assert_eq!(migrations.next(at(2)), Some(IfIndex(7)));
        for second in 3..60 {
            migrations.note_call(at(second));
            assert_eq!(migrations.next(at(second)), None, "{second}");
        }
        migrations.note_call(at(60));
        assert_eq!(migrations.next(at(60)), Some(IfIndex(7)), "it has waited long enough");
        migrations.latest_migration = Some(at(60));
        migrations.expect(IfIndex(8));
        assert_eq!(migrations.next(at(60)), None, "but not two at once");
        assert_eq!(migrations.next(at(61)), Some(IfIndex(7)));
        migrations.forget(IfIndex(7));
        assert_eq!(migrations.next(at(61)), None, "the other has not waited so long");
    }
}
