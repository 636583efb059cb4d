//! From one image to the next, one map operation at a time.
//!
//! In: what the maps hold and what they should hold. Out: ordered [`MapOp`]s. After every single one nothing passes
//! that both images forbid, and nothing is dropped that both allow. [`MemoryMaps`] holds an image for
//! simulations and tests. Must not: touch the kernel.

mod diff;
mod memory;
mod op;

pub use diff::diff;
pub use memory::{MemoryMaps, Observation};
pub use op::{MapOp, apply};

pub use crate::compile::{AllowMap, EndpointImage, Image};

#[cfg(test)]
mod tests;
