//! Properties of any input: one `check` for each fuzz target.
//!
//! In: bytes. Out: nothing, or a panic. `tests/tests/fuzzed.rs` includes these modules and replays earlier findings, so they are
//! compiled, linted, and run by the stable toolchain.
#![expect(clippy::unwrap_used, reason = "a failed check panics")]

pub mod manifests;
pub mod net_conf;
pub mod packet;
