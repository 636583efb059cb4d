//! From one map state to the next, one map operation at a time.
//!
//! In: the current and the desired content of the maps. Out: ordered [`MapOp`]s ([`diff`]). After every single one, no packet
//! passes that both map states forbid, and none drops that both allow (invariant I4). [`port`] is the interface to the kernel
//! that the agent needs; [`MemoryMaps`] implements the maps in memory, for simulations and tests. Must not: touch the kernel.

mod backends;
mod diff;
mod memory;
mod op;
pub mod port;
mod transition;

pub use diff::diff;
pub(crate) use memory::identity_of;
pub use memory::{MemoryMaps, Observation};
pub use op::{MapOp, apply};

pub use crate::compile::{AllowMap, AllowMapKey, EndpointMapState, MapState};

/// Packets of one verdict, on all CPUs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes from the network header on.
    pub bytes: u64,
}

#[cfg(test)]
mod tests;
