//! The core as the agent uses it, without IO.

use netpol_policy::compile::{Compiled, MapState};
use netpol_policy::dataplane::{MapOp, diff};
use netpol_policy::store::{Changes, ClusterState, Delta};

/// A cluster's state and the image that follows it.
#[derive(Debug, Default)]
pub struct Follower {
    /// The cluster state.
    pub state: ClusterState,
    /// The map state.
    pub map_state: MapState,
    changes: Changes,
    compiled: Compiled,
}

impl Follower {
    /// Applies the initial lists; compiles nothing yet.
    pub fn read(deltas: Vec<Delta>) -> Self {
        let mut follower = Self::default();
        for delta in deltas {
            follower.apply(delta);
        }
        follower
    }

    /// Applies a change.
    pub fn apply(&mut self, delta: Delta) {
        self.changes.extend(self.state.apply(delta));
    }

    /// Updates the map state; returns the operations.
    pub fn update(&mut self) -> Vec<MapOp> {
        let changes = std::mem::take(&mut self.changes);
        let update = self.compiled.update(&self.state, &changes, &self.map_state);
        let ops = diff(&update.before, &update.after);
        update.complete(&mut self.map_state);
        ops
    }

    /// Number of distinct identities of addresses and prefixes.
    pub fn n_identities(&self) -> usize {
        self.compiled.n_identities()
    }
}
