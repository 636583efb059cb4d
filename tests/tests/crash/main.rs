//! The agent is killed at any point of a policy change, an upgrade, an ADD, a DEL, and an uninstallation.
//!
//! `strace` kills it before a chosen system call. Connections run all the while: allowed ones stay allowed, denied ones never
//! start, and the next agent reaches the same state as without a kill. `NETPOL_CRASH_POINTS` sets the number of points;
//! `cargo xtask crash` tries all.
#![forbid(unsafe_code)]

mod calls;
mod changes;
mod fixture;
mod removal;
mod versions;

/// Default number of points of a test.
const N_POINTS: usize = 5;
