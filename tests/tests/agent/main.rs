//! The watches of the agent against a fake API server: whatever the server does, the store ends up with
//! what the server has, and what cannot be known is told.
#![forbid(unsafe_code)]

mod access;
mod faults;
mod lists;
mod objects;
mod privileged;
mod silence;
