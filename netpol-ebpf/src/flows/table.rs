//! Look-ups and writes of flows.
//!
//! The functions that search a set are global ones, because the verifier walks a global function only once.

use core::ptr;
use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::Global;
use aya_ebpf::bindings::{self, BPF_F_MMAPABLE};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::generated::{bpf_spin_lock, bpf_spin_unlock};
use aya_ebpf::macros::btf_map;
use netpol_common::addr::Addr;
use netpol_common::flow::Step;
use netpol_common::flow_table::{self, FlowSet, N_WAYS, Place, SlotMemory as _};
use netpol_common::ids::{Direction, Epoch, Nanos, RuleId};
use netpol_common::keys::{FlowKey, FlowValue};
use netpol_common::maps::{self, Local, Settled};

use super::slot::MapSlot;

#[btf_map]
static FLOWS: Array<FlowSet, { maps::N_FLOW_SETS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();
#[btf_map]
static FLOW_LOCKS: Array<FlowLock, { maps::N_FLOW_LOCKS as usize }> = Array::new();
#[btf_map]
static EVICTIONS: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Seed of the table's hash; user space sets it before loading, for the life of the table.
#[unsafe(no_mangle)]
static FLOW_SEED: Global<u64> = Global::new(0);
/// Number of sets less one; user space sets it before loading.
#[unsafe(no_mangle)]
static FLOW_SET_MASK: Global<u32> = Global::new(maps::N_FLOW_SETS - 1);
/// Whether readers take the lock of a set: not 0 where the processor reorders loads or stores. User space sets it before loading.
#[unsafe(no_mangle)]
static FLOW_READS_LOCK: Global<u32> = Global::new(1);

/// The kernel finds the lock in a map's values by the name of its type.
#[repr(C)]
struct FlowLock {
    lock: bindings::bpf_spin_lock,
}

/// [`settled_flow`]: there is no such flow.
const UNKNOWN: u64 = 0;
/// [`settled_flow`]: the flow has to be decided or written, or another processor is writing it.
const UNSETTLED: u64 = 1;
/// [`settled_flow`]: the flow passes the packet. The lower half holds the rule.
const SETTLED: u64 = 1 << 32;
/// [`write_flow`]: the set is full.
const FULL: u32 = 2;

/// The set of a flow, its lock, and the mark of the flow.
struct Found {
    set: *mut FlowSet,
    lock: *mut bindings::bpf_spin_lock,
    mark: u64,
}

#[inline(always)]
fn find_set(key: &FlowKey) -> Option<Found> {
    let Place { set, mark } = place(key);
    let lock = FLOW_LOCKS.get_ptr_mut(set % maps::N_FLOW_LOCKS)?;
    Some(Found { set: FLOWS.get_ptr_mut(set)?, lock: lock.cast(), mark })
}

#[inline(always)]
fn place(key: &FlowKey) -> Place {
    flow_table::place(key, FLOW_SEED.load(), FLOW_SET_MASK.load())
}

impl Found {
    /// The flows of the set, for a holder of the lock.
    #[inline(always)]
    fn flows(&self) -> &FlowSet {
        // SAFETY: an element of an array map is never freed. Other processors do not write it while this one holds the lock. User
        // space writes only zeros over marks, and either value of a mark is right.
        unsafe { &*self.set }
    }

    #[inline(always)]
    fn slot(&self, way: usize) -> MapSlot {
        // SAFETY: the set is an element of FLOWS.
        unsafe { MapSlot::of(self.set, way) }
    }

    /// Does something while this processor holds the lock. The verifier allows no calls in there.
    #[inline(always)]
    fn locked<R>(&self, work: impl FnOnce() -> R) -> R {
        // SAFETY: the lock is an element of FLOW_LOCKS, and this program holds no other.
        unsafe { bpf_spin_lock(self.lock) };
        let result = work();
        // SAFETY: taken above.
        unsafe { bpf_spin_unlock(self.lock) };
        result
    }
}

/// See [`maps::PolicyMaps::settled`]; without `sender` the address that the pod sends from does not matter. `packet` holds the
/// direction and, from bit 8 on, the TCP flags.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn settled_flow(
    key: *const FlowKey,
    sender: *const Addr,
    now: u64,
    epoch: u32,
    packet: u32,
) -> u64 {
    // SAFETY: the caller's own, or null.
    let Some(key) = (unsafe { key.as_ref() }) else { return UNKNOWN };
    // SAFETY: the caller's own, or null.
    let sender = unsafe { sender.as_ref() };
    let [direction, tcp_flags, ..] = packet.to_le_bytes();
    let direction = if direction == Direction::Ingress.to_wire() {
        Direction::Ingress
    } else {
        Direction::Egress
    };
    let step = Step { now: Nanos(now), epoch: Epoch(epoch), direction, tcp_flags };
    let settled = if FLOW_READS_LOCK.load() == 0 {
        let Place { set, mark } = place(key);
        let Some(set) = FLOWS.get_ptr_mut(set) else { return UNKNOWN };
        // SAFETY: the set is an element of FLOWS.
        let slots = |way| unsafe { MapSlot::of(set, way) };
        flow_table::settled(slots, mark, key, sender, &step)
    } else {
        let Some(found) = find_set(key) else { return UNKNOWN };
        let slots = |way| found.slot(way);
        found.locked(|| flow_table::settled_under_lock(slots, found.mark, key, sender, &step))
    };
    match settled {
        Settled::Yes(rule) => SETTLED | u64::from(rule.0),
        Settled::No => UNSETTLED,
        Settled::Unknown => UNKNOWN,
    }
}

/// Copies a flow. Returns 0 if there is no such flow, 2 if the pod last sent from `sender` on it, else 1.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_flow(key: *const FlowKey, sender: *const Addr, flow: *mut FlowValue) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    // SAFETY: the caller's own, or null.
    let Some(sender) = (unsafe { sender.as_ref() }) else { return 0 };
    // SAFETY: the caller's own, or null.
    let Some(flow) = (unsafe { flow.as_mut() }) else { return 0 };
    let Some(found) = find_set(key) else { return 0 };
    found.locked(|| match found.flows().find(found.mark, key) {
        Some(way) => {
            let slot = found.slot(way);
            *flow = slot.flow();
            if slot.local() == *sender { 2 } else { 1 }
        }
        None => 0,
    })
}

/// Adds or replaces a flow, unless its set is [`FULL`]. Without `local` the address that the pod sends from is unknown.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn write_flow(key: *const FlowKey, flow: *const FlowValue, local: *const Addr) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    // SAFETY: the caller's own, or null.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return 0 };
    // SAFETY: the caller's own, or null.
    let local = unsafe { local.as_ref() };
    let Some(found) = find_set(key) else { return 0 };
    found.locked(|| {
        let mut way = found.flows().find(found.mark, key);
        // What is loaded again does not have to stay on the stack.
        compiler_fence(Ordering::SeqCst);
        if way.is_none() {
            way = found.flows().free(flow_table::tick(flow.last_seen));
        }
        let Some(way) = way else { return FULL };
        flow_table::write(found.slot(way), found.mark, key, flow, local);
        found.set_end(way, flow_table::end(flow, key.protocol));
        1
    })
}

/// Evicts a flow from the set of this one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn evict_for(key: *const FlowKey) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    let Some(found) = find_set(key) else { return 0 };
    found.locked(|| {
        let victim = found.flows().victim(found.shares());
        flow_table::free(found.slot(victim));
    });
    if let Some(n_evicted) = EVICTIONS.get_ptr_mut(0) {
        // SAFETY: the element is this processor's own.
        unsafe { *n_evicted += 1 };
    }
    1
}

/// Writes the state of a flow, if there is such a flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn renew_flow(key: *const FlowKey, flow: *const FlowValue) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    // SAFETY: the caller's own, or null.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return 0 };
    let Some(found) = find_set(key) else { return 0 };
    found.locked(|| {
        if let Some(way) = found.flows().find(found.mark, key) {
            flow_table::renew(found.slot(way), flow);
            found.set_end(way, flow_table::end(flow, key.protocol));
        }
    });
    1
}

impl Found {
    /// Sets when a flow ends. The caller holds the lock.
    #[inline(always)]
    fn set_end(&self, way: usize, end: u32) {
        let ends = self.set.wrapping_byte_add(core::mem::offset_of!(FlowSet, ends)).cast::<u32>();
        // SAFETY: an element of an array map is never freed; only holders of the lock use this field.
        unsafe { *ends.wrapping_add(way & (N_WAYS - 1)) = end };
    }

    /// [`FlowSet::shares`] by way of memory, where the verifier does not follow them. The caller holds the lock.
    #[inline(always)]
    fn shares(&self) -> u64 {
        let scratch =
            self.set.wrapping_byte_add(core::mem::offset_of!(FlowSet, shares)).cast::<u64>();
        let shares = self.flows().shares();
        // SAFETY: an element of an array map is never freed; only holders of the lock use this field.
        unsafe { ptr::write_volatile(scratch, shares) };
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { ptr::read_volatile(scratch) }
    }
}

/// See [`maps::PolicyMaps::settled`].
#[inline(always)]
pub(crate) fn settled(key: &FlowKey, sender: Option<&Addr>, step: &Step) -> Settled {
    let Step { now, epoch, direction, tcp_flags } = *step;
    let packet = u32::from_le_bytes([direction.to_wire(), tcp_flags, 0, 0]);
    let sender = sender.map_or(ptr::null(), ptr::from_ref);
    match settled_flow(key, sender, now.0, epoch.0, packet) {
        UNKNOWN => Settled::Unknown,
        UNSETTLED => Settled::No,
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is the rule")]
        found => Settled::Yes(RuleId(found as u32)),
    }
}

/// See [`maps::PolicyMaps::flow`].
#[inline(always)]
pub(crate) fn read(key: &FlowKey, sender: &Addr, flow: &mut FlowValue) -> Option<bool> {
    match read_flow(key, sender, flow) {
        0 => None,
        found => Some(found == 2),
    }
}

/// See [`maps::PolicyMaps::set_flow`].
#[inline(always)]
pub(crate) fn write(key: &FlowKey, flow: &FlowValue, local: Local<'_>) {
    let local = match local {
        Local::Kept => {
            renew_flow(key, flow);
            return;
        }
        Local::Unknown => ptr::null(),
        Local::At(addr) => ptr::from_ref(addr),
    };
    if write_flow(key, flow, local) == FULL {
        evict_for(key);
        // If another processor has taken the slot, the flow is not stored and its next packet is decided again.
        write_flow(key, flow, local);
    }
}
