//! From one image to the next, one map operation at a time.
//!
//! In: what the maps hold and what they should hold. Out: ordered [`MapOp`]s. After every single one nothing passes
//! that both images forbid, and nothing is dropped that both allow. [`MemoryMaps`] holds an image for
//! simulations and tests. Must not: touch the kernel.

mod diff;
mod memory;
mod op;
pub mod port;
mod transition;

pub use diff::diff;
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
