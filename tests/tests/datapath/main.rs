//! The programs and maps in the kernel.
//!
//! Packet by packet through `BPF_PROG_TEST_RUN`, against the same function on the host; maps and attachments
//! across restarts.

#![expect(clippy::unwrap_used, reason = "all of it is test, also outside functions marked so")]

mod allow_maps;
mod attachments;
mod differential;
mod events;
mod flow_table;
mod handmade;
mod identities;
mod map_gc;
mod migration;
mod strategies;
mod twins;
mod verifier;
mod wire;
mod world;
