//! FLOWS, the table of flows: its layout, the choice of a slot, and the access of many processors to one slot.
//!
//! In: keys, sets of the table, the coarse time. Out: slots and marks. Pure: the kernel programs and user space bring the memory.
//!
//! The table is an array of sets. The hash of a flow's key selects a set, in which the flow has one of [`N_WAYS`] slots. A look-up
//! reads two cache lines: the marks of the set and the slot. A look-up that finds nothing reads one. The kernel's own LRU hash map
//! reads four, and moves other entries through its lists for each new one.
//!
//! * **Eviction.** A new flow in a full set takes the slot of a flow that has ended. If there is none, it takes a slot of the
//!   endpoint that holds the most slots of the set: of these flows the one that would end first. So a flood evicts its own flows,
//!   and flows that have only begun before established ones.
//! * **Concurrency.** Programs write a set under its lock ([`FLOW_LOCKS`](crate::maps::FLOW_LOCKS)). How they read it, and what
//!   user space may do, is the matter of [`SlotMemory`].

mod access;
mod hash;
mod set;

pub use access::{SlotMemory, free, renew, settled, settled_under_lock, write};
pub use hash::{Place, owner, place, ports};
pub use set::{FlowSet, FlowSlot, N_WAYS, end, tick};
