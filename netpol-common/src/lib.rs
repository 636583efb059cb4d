//! The types that the kernel programs and user space share, and the verdict.
//!
//! [`verdict::decide`] is the only function that judges packets. It is compiled into the kernel programs, the simulation and the
//! tests. In: packet bytes and map look-ups behind two small traits. Out: a verdict with a reason. Must not: allocate, panic, log,
//! read a clock.
//!
//! A module uses only those before it in this order: `addr ids mac event reason`, `keys`, `flow`, `maps`, `flow_table identities packet`,
//! `verdict`.
#![no_std]
#![forbid(unsafe_code)]
#![expect(
    clippy::inline_always,
    reason = "the BPF target allows 5 arguments, and 512 bytes of stack over all calls; inlined functions need neither"
)]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod event;
pub mod flow;
pub mod flow_table;
pub mod identities;
#[macro_use]
pub mod ids;
pub mod keys;
pub mod mac;
pub mod maps;
pub mod packet;
pub mod reason;
pub mod verdict;
