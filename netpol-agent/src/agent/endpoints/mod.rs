//! Adds and removes endpoints: calls of the CNI plugin, and running pods that a search has found.

mod adopt;
mod calls;
pub(super) mod pod_end;
pub(super) mod search;
