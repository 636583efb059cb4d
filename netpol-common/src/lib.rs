//! The wire and the verdict.
//!
//! Types that the kernel programs and user space share, and [`verdict::decide`]: the one function that
//! says what happens to a packet. It is compiled into the kernel programs, into `netpol-agent simulate`
//! and into the tests. In: packet bytes and map look-ups behind two small traits. Out: a verdict with a
//! reason. Must not: allocate, panic, log, read a clock.
#![no_std]
#![forbid(unsafe_code)]
#![expect(
    clippy::inline_always,
    reason = "the BPF target allows 5 arguments and 512 bytes of stack over all calls: what is inlined costs neither"
)]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod event;
pub mod flow;
pub mod flow_table;
pub mod identities;
pub mod ids;
pub mod keys;
pub mod maps;
pub mod packet;
pub mod reason;
pub mod verdict;
