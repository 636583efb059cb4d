//! The core as the agent uses it, without its edges.

use netpol_policy::compile::{Compiled, MapState};
use netpol_policy::dataplane::{MapOp, diff};
use netpol_policy::store::{Changes, ClusterState, Delta};

/// A cluster's state and the image that follows it.
#[derive(Debug, Default)]
pub struct Follower {
    /// The cluster.
    pub state: ClusterState,
    /// The maps.
    pub map_state: MapState,
    changes: Changes,
    compiled: Compiled,
}

impl Follower {
    /// Takes in a cluster; nothing is compiled yet.
    pub fn read(deltas: Vec<Delta>) -> Self {
        let mut follower = Self::default();
        for delta in deltas {
            follower.apply(delta);
        }
        follower
    }

    /// Takes in a change.
    pub fn apply(&mut self, delta: Delta) {
        self.changes.extend(self.state.apply(delta));
    }

    /// Brings the maps up to the state. Returns the operations that did it.
    pub fn update(&mut self) -> Vec<MapOp> {
        let changes = std::mem::take(&mut self.changes);
        let update = self.compiled.update(&self.state, &changes, &self.map_state);
        let ops = diff(&update.before, &update.after);
        update.complete(&mut self.map_state);
        ops
    }

    /// How many identities addresses and prefixes have.
    pub fn n_identities(&self) -> usize {
        self.compiled.n_identities()
    }
}
