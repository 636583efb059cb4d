//! Migration of endpoints from clsact filters to TCX links.

use std::time::Instant;

use netpol_common::ids::IfIndex;
use netpol_policy::dataplane::port::{Kernel, Migrated};
use tracing::{debug, warn};

use crate::agent::state::Agent;

impl<K: Kernel> Agent<K> {
    /// Begins the next migration, if it is time. The caller [runs](netpol_policy::dataplane::port::Attachments::run_migration)
    /// it on the worker thread, and passes the result to [`Agent::end_migration`].
    pub fn begin_migration(&mut self, now: Instant) -> Option<K::Migration> {
        let is_busy = self.migrations.is_under_way()
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
                    self.migrations.begin(ifindex);
                    return Some(migration);
                }
                Ok(None) => self.migrations.remove(ifindex),
                Err(error) => {
                    warn!(%ifindex, %error, "migration to TCX failed; the clsact filters stay");
                    self.migrations.remove(ifindex);
                }
            }
        }
    }

    /// Finishes a migration that has been run.
    pub fn end_migration(&mut self, ifindex: IfIndex, migration: K::Migration, now: Instant) {
        self.migrations.end(now);
        let pod = self.state.endpoint(ifindex).map(|endpoint| endpoint.pod.to_string());
        match self.kernel.end_migration(migration) {
            Ok(Migrated::Yes) => debug!(pod, %ifindex, "program migrated to a TCX link"),
            Ok(Migrated::Shared) => {
                debug!(pod, %ifindex, "clsact filter stays: other programs share the hook");
                self.migrations.remove(ifindex);
            }
            Err(error) => {
                // The interface may be gone: then it is no endpoint any more, or will soon be none.
                warn!(pod, %ifindex, %error, "migration to TCX failed; the clsact filters stay");
                self.migrations.remove(ifindex);
            }
        }
    }
}
