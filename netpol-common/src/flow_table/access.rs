//! How a slot is read and written while other processors do the same.

use super::bucket::N_SLOTS;
use super::hash::ports;

use crate::addr::Addr;
use crate::flow::{self, Step};
use crate::keys::{FlowKey, FlowValue};
use crate::maps::CurrentFlow;

/// The memory of a slot and of its mark, which several processors use at the same time.
///
/// # Protocol
/// A writer holds the lock of the bucket. It makes the number of the slot odd, writes mark, key and entry, and makes the number even
/// again ([`write()`], [`renew`]). Freeing a slot is a write of zero over its mark and needs no number ([`free`]). User space cannot
/// take the lock, so it only frees slots: by an atomic compare-and-exchange of the mark.
///
/// A reader without the lock ([`current_flow`]) finds the mark, reads the number, finds the mark again, reads key and entry, and
/// finds the number unchanged. The mark is read twice because the slot may have been given to another flow before the number was
/// read. An even number that has not changed shows that no writer was active in between, so key and entry belong together.
///
/// # Memory order
/// This holds if each processor executes its loads in program order and other processors see its stores in program order, as on
/// x86. Where processors reorder them (arm64) a reader may see the entry of one flow under the number of another. The kernel's BPF
/// has no acquire loads before Linux 6.15, so there a reader takes the lock ([`current_under_lock`]). `tests/ordering` checks both
/// for all executions of a model, and that no step can be omitted.
///
/// User space reads as a reader without the lock. On arm64 it may therefore show one flow with the state of another.
pub trait SlotMemory: Copy {
    /// Loads the mark.
    fn mark(self) -> u64;
    /// Stores the mark.
    fn set_mark(self, mark: u64);
    /// Loads [`FlowSlot::number`](super::FlowSlot::number).
    fn number(self) -> u32;
    /// Stores it.
    fn set_number(self, number: u32);
    /// Loads [`FlowSlot::ports`](super::FlowSlot::ports).
    fn ports(self) -> u32;
    /// Loads [`FlowSlot::remote`](super::FlowSlot::remote).
    fn remote(self) -> Addr;
    /// Stores ports and remote address of a key.
    fn set_key(self, key: &FlowKey);
    /// Loads [`FlowEntry::flow`](crate::keys::FlowEntry::flow).
    fn flow(self) -> FlowValue;
    /// Stores it.
    fn set_flow(self, flow: &FlowValue);
    /// Loads [`FlowEntry::local`](crate::keys::FlowEntry::local).
    fn local(self) -> Addr;
    /// Stores it.
    fn set_local(self, local: &Addr);
    /// Keeps the compiler from moving loads and stores across this point.
    fn fence();
}

/// Whether a flow passes a packet without a new decision, see [`PolicyMaps::current_flow`](crate::maps::PolicyMaps::current_flow).
/// `slots` are those of its bucket, `mark` is its mark. The caller needs no lock, but a processor that does not reorder loads and
/// stores.
#[inline(always)]
pub fn current_flow<S: SlotMemory>(
    slots: impl Fn(usize) -> S,
    mark: u64,
    key: &FlowKey,
    sender: Option<&Addr>,
    step: &Step,
) -> CurrentFlow {
    let mut index = 0;
    while index < N_SLOTS {
        let slot = slots(index);
        if slot.mark() == mark {
            let number = slot.number();
            S::fence();
            if number & 1 != 0 || slot.mark() != mark {
                return CurrentFlow::No;
            }
            if holds(slot, key) {
                if is_from_elsewhere(slot, sender) {
                    return CurrentFlow::No;
                }
                let flow = slot.flow();
                S::fence();
                let is_consistent = slot.number() == number;
                return if is_consistent && flow::is_current(&flow, key.protocol, step) {
                    CurrentFlow::of(&flow)
                } else {
                    CurrentFlow::No
                };
            }
        }
        index += 1;
    }
    CurrentFlow::Absent
}

/// The same for a caller that holds the lock of the bucket.
#[inline(always)]
pub fn current_under_lock<S: SlotMemory>(
    slots: impl Fn(usize) -> S,
    mark: u64,
    key: &FlowKey,
    sender: Option<&Addr>,
    step: &Step,
) -> CurrentFlow {
    let mut index = 0;
    while index < N_SLOTS {
        let slot = slots(index);
        if slot.mark() == mark && holds(slot, key) {
            if is_from_elsewhere(slot, sender) {
                return CurrentFlow::No;
            }
            let flow = slot.flow();
            return if flow::is_current(&flow, key.protocol, step) {
                CurrentFlow::of(&flow)
            } else {
                CurrentFlow::No
            };
        }
        index += 1;
    }
    CurrentFlow::Absent
}

#[inline(always)]
fn holds<S: SlotMemory>(slot: S, key: &FlowKey) -> bool {
    slot.ports() == ports(key) && slot.remote() == key.remote
}

/// Whether the pod last sent from another address than this sender.
#[inline(always)]
fn is_from_elsewhere<S: SlotMemory>(slot: S, sender: Option<&Addr>) -> bool {
    sender.is_some_and(|sender| slot.local() != *sender)
}

/// Writes a flow to a slot, over whatever is there. Without `local` the address that the pod sends from is unknown. The caller
/// holds the lock of the bucket.
#[inline(always)]
pub fn write<S: SlotMemory>(
    slot: S,
    mark: u64,
    key: &FlowKey,
    flow: &FlowValue,
    local: Option<&Addr>,
) {
    let number = begin(slot);
    slot.set_mark(mark);
    slot.set_key(key);
    slot.set_flow(flow);
    match local {
        Some(local) => slot.set_local(local),
        None => slot.set_local(&Addr::UNSPECIFIED),
    }
    end(slot, number);
}

/// Writes the state of the flow in a slot. The caller holds the lock of the bucket.
#[inline(always)]
pub fn renew<S: SlotMemory>(slot: S, flow: &FlowValue) {
    let number = begin(slot);
    slot.set_flow(flow);
    end(slot, number);
}

/// Frees a slot. The caller holds the lock of the bucket.
#[inline(always)]
pub fn free<S: SlotMemory>(slot: S) {
    slot.set_mark(0);
}

/// Makes the number odd and returns it.
#[inline(always)]
fn begin<S: SlotMemory>(slot: S) -> u32 {
    let number = slot.number().wrapping_add(1);
    slot.set_number(number);
    S::fence();
    number
}

/// Makes the number even.
#[inline(always)]
fn end<S: SlotMemory>(slot: S, number: u32) {
    S::fence();
    slot.set_number(number.wrapping_add(1));
}
