//! What must hold for any input: one `check` for each fuzz target.
//!
//! In: bytes. Out: nothing, or a panic. `tests/tests/fuzzed.rs` takes these modules too, and replays with them what was
//! found; so they are compiled, linted and run by the stable toolchain with everything else.
#![expect(clippy::unwrap_used, reason = "a check that fails panics: that is how it tells")]

pub mod manifests;
pub mod net_conf;
pub mod packet;
