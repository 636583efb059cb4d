//! Slow work that is scheduled by the event loop and runs on the worker thread: migration to TCX links, and garbage
//! collection of the maps.

mod map_gc;
mod migration;
pub(super) mod worker;
