//! An agent that is killed at any point of a change, of an exchange of versions, of an ADD, of a DEL, of an uninstallation.
//!
//! `strace` kills it before a certain system call. Connections go on all the while: those that are allowed stay so, those
//! that are not never begin, and the next agent comes to the state to which one comes that was not killed. How many points
//! are tried is up to `NETPOL_CRASH_POINTS`; `cargo xtask crash` tries all.
#![forbid(unsafe_code)]

mod calls;
mod changes;
mod fixture;
mod removal;
mod versions;

/// Points that a test tries, unless it is told otherwise.
const N_POINTS: usize = 5;
