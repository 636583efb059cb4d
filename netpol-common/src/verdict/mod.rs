//! The verdict: what happens to a packet, and why.
//!
//! In: a frame, its context at the hook, and map look-ups. Out: an [`Outcome`]. `decide` has the questions that depend on the hook,
//! `judge` those that depend on one endpoint, `connection` those about the flow, and `policy` those about the rules.
//!
//! A BPF program has 512 bytes of stack, counted over the longest chain of calls, where each function takes a multiple of 32 bytes.
//! So the longer functions are not inlined: functions that are called one after the other then use the same stack.

mod connection;
mod decide;
mod deferred;
mod denials;
mod fast_path;
mod fragments;
mod hook_context;
mod judge;
mod outcome;
mod outside;
mod policy;
mod short_cut;
mod spoofing;
#[cfg(test)]
mod tests;
mod tunnel;
mod view;

pub use connection::judge_connection;
pub use decide::decide;
pub use denials::{Asked, denial, denial_at_node, denial_to_itself};
pub use hook_context::{DEFAULT_MARK_MASK, HookContext};
pub use outcome::{Outcome, Target};
pub use short_cut::{Arrival, arrival, keeps_redirect, receiver, receiver_mac};
pub use tunnel::is_tunnel;
pub use view::{Ruled, View};
