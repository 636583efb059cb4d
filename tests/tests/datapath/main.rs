//! The programs and maps in the kernel.
//!
//! Packet by packet through `BPF_PROG_TEST_RUN`, against the same function on the host; maps and attachments
//! across restarts.

mod attachments;
mod differential;
mod strategies;
mod verifier;
