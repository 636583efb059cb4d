//! The programs and maps in the kernel.
//!
//! Single packets by `BPF_PROG_TEST_RUN`, compared with the same function on the host; maps and attachments across restarts.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "all of it is test, also outside functions marked so")]

mod allow_maps;
mod attachments;
mod cluster_model;
mod differential;
mod events;
mod fast_slow_equivalence;
mod flow_table;
mod handmade;
mod identities;
mod kernels;
mod map_gc;
mod migration;
mod recycled;
mod rule_counts;
mod short_cut;
mod strategies;
mod verifier;
mod wire;
