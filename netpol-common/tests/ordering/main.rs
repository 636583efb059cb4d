//! The memory that several processors use without a lock, in all executions of a model.
//!
//! loom runs each model with every interleaving of its threads and every value that a load may see. The code under test is the
//! real one, with loom's atomics as its memory. Processors are modelled by the weakest order that they give all loads and stores:
//! on x86 each load acquires and each store releases, on arm64 they are relaxed.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "all of it is test, also outside functions marked so"
)]

mod flows;
mod identities;
