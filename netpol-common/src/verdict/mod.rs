//! The verdict: what happens to a packet, and why.
//!
//! In: a frame, where it was seen, and map look-ups. Out: an [`Outcome`]. The order of the questions is the
//! order of the functions: `decide` has what depends on the hook, `judge` what depends on one endpoint's view, `connection` what
//! depends on the flow, `policy` what the rules say.
//!
//! A BPF program has 512 bytes of stack, counted over the longest chain of calls in steps of 32. So the longer functions
//! are not inlined: those that are called one after the other then use the same stack.

mod connection;
mod decide;
mod deferred;
mod fragments;
mod hook_context;
mod judge;
mod known;
mod outcome;
mod policy;
mod spoofing;
#[cfg(test)]
mod tests;
mod view;

pub use decide::decide;
pub use hook_context::{DEFAULT_MARK_MASK, HookContext};
pub use outcome::Outcome;
