//! Work that is scheduled by the event loop. Slow work runs on the worker thread: migration to TCX links, and garbage
//! collection of the maps. `programs` looks whether the programs are still attached.

mod map_gc;
mod migration;
mod programs;
pub(super) mod worker;
