//! Adds and removes endpoints: calls of the CNI plugin, running pods that a search has found, and new interfaces that nobody has
//! announced.

mod adopt;
mod calls;
pub(super) mod pod_end;
pub(super) mod search;
mod unidentified;
