//! FLOWS, the table of flows: its layout, the choice of a slot, and the access of many processors to one slot.
//!
//! In: keys, buckets of the table, the coarse time. Out: slots and marks. Pure: the kernel programs and user space bring the memory.
//!
//! The table is an array of buckets. The hash of a flow's key selects a bucket, in which the flow has one of [`N_SLOTS`] slots. A
//! look-up reads two cache lines: the marks of the bucket and the slot. A look-up that finds nothing reads one. The kernel's own LRU
//! hash map reads four, and moves other entries through its lists for each new one.
//!
//! * **Eviction.** A new flow in a full bucket takes the slot of a flow that has ended. If there is none, it takes a slot of the
//!   endpoint that has the most flows in the whole table ([`FLOW_COUNTS`](crate::maps::FLOW_COUNTS)): of its flows in the bucket
//!   the one that would end first. So however many endpoints flood the table, they evict their own flows, and flows that have only
//!   begun before established ones.
//! * **Concurrency.** Programs write a bucket under its lock ([`FLOW_LOCKS`](crate::maps::FLOW_LOCKS)). [`SlotMemory`] says how
//!   they read it, and what user space may do.

mod access;
mod bucket;
mod hash;

pub use access::{SlotMemory, current_flow, current_under_lock, free, renew, write};
pub use bucket::{FlowBucket, FlowSlot, N_SLOTS, end, tick};
pub use hash::{FlowHash, count_index, hash, owner, ports};
