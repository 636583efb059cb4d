//! The core as the agent uses it, without its edges.

use netpol_agent::compile::{Compiled, Image};
use netpol_agent::dataplane::{MapOp, diff};
use netpol_agent::store::{Changes, ClusterState, Delta};

/// A cluster's state and the image that follows it.
#[derive(Debug, Default)]
pub struct Follower {
    /// The cluster.
    pub state: ClusterState,
    /// The maps.
    pub image: Image,
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
        let turn = self.compiled.update(&self.state, &changes, &self.image);
        let ops = diff(&turn.before, &turn.after);
        turn.complete(&mut self.image);
        ops
    }

    /// How many identities addresses and prefixes have.
    pub fn n_identities(&self) -> usize {
        self.compiled.n_identities()
    }
}
