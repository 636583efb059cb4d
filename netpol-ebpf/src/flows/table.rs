//! Look-ups and writes of flows.
//!
//! The functions that search a bucket are global ones, because the verifier walks a global function only once.

#[cfg(target_arch = "bpf")]
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::mem::offset_of;
use core::ptr;
#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::AtomicU64;
use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::Global;
use aya_ebpf::bindings::{self, BPF_F_MMAPABLE};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::generated::{bpf_spin_lock, bpf_spin_unlock};
use aya_ebpf::macros::btf_map;
use netpol_common::addr::Addr;
use netpol_common::flow::Step;
use netpol_common::flow_table::{self, FlowBucket, FlowHash, N_SLOTS, SlotMemory as _};
use netpol_common::ids::{Direction, Epoch, IfIndex, Nanos, RuleId};
use netpol_common::keys::{FlowKey, FlowValue};
use netpol_common::maps::{self, CurrentFlow, Local};

use super::slot::MapSlot;

#[btf_map]
static FLOWS: Array<FlowBucket, { maps::N_FLOW_BUCKETS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();
#[btf_map]
static FLOW_COUNTS: Array<u64, { maps::N_FLOW_COUNTS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();
#[btf_map]
static FLOW_LOCKS: Array<FlowLock, { maps::N_FLOW_LOCKS as usize }> = Array::new();
#[btf_map]
static EVICTIONS: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Seed of the table's hash. User space sets it before loading, for the life of the table.
#[unsafe(no_mangle)]
static FLOW_SEED: Global<u64> = Global::new(0);
/// Number of buckets less one. User space sets it before loading.
#[unsafe(no_mangle)]
static FLOW_BUCKET_MASK: Global<u32> = Global::new(maps::N_FLOW_BUCKETS - 1);
/// Whether readers take the lock of a bucket: not 0 where the processor reorders loads or stores. User space sets it before loading.
#[unsafe(no_mangle)]
static FLOW_READS_LOCK: Global<u32> = Global::new(1);

/// The kernel finds the lock in a map's values by the name of its type.
#[repr(C)]
struct FlowLock {
    lock: bindings::bpf_spin_lock,
}

/// Result of [`current_flow`]: there is no such flow.
const ABSENT: u64 = 0;
/// Result of [`current_flow`]: the flow has to be decided or written, or another processor is writing it.
const STALE: u64 = 1;
/// Result of [`current_flow`]: the flow passes the packet. The lower half holds the rule, the bits above it the interface to which the
/// packet is redirected.
const CURRENT: u64 = 1 << 63;
/// Subtracts one by [`add_to_count`].
const LESS: u64 = u64::MAX;
/// Result of [`write_flow`] and of [`evict_for`]: the flow is stored, or a slot is free.
const DONE: u32 = 1;
/// Result of [`write_flow`]: the bucket is full.
const FULL: u32 = 2;

/// The bucket of a flow, its lock, and the mark of the flow.
struct Bucket {
    memory: *mut FlowBucket,
    lock: *mut bindings::bpf_spin_lock,
    mark: u64,
}

/// The seed of the table's hash.
#[inline(always)]
pub(crate) fn seed() -> u64 {
    FLOW_SEED.load()
}

#[inline(always)]
fn hash(key: &FlowKey) -> FlowHash {
    flow_table::hash(key, FLOW_SEED.load(), FLOW_BUCKET_MASK.load())
}

impl Bucket {
    #[inline(always)]
    fn of(key: &FlowKey) -> Option<Self> {
        let FlowHash { bucket, mark } = hash(key);
        let lock = FLOW_LOCKS.get_ptr_mut(bucket % maps::N_FLOW_LOCKS)?;
        Some(Self { memory: FLOWS.get_ptr_mut(bucket)?, lock: lock.cast(), mark })
    }

    /// Runs `work` while this processor holds the lock. The verifier allows no calls in there.
    #[inline(always)]
    fn locked<R>(&self, work: impl FnOnce() -> R) -> R {
        // SAFETY: the lock is an element of FLOW_LOCKS, and this program holds no other lock.
        unsafe { bpf_spin_lock(self.lock) };
        let result = work();
        // SAFETY: the program holds this lock.
        unsafe { bpf_spin_unlock(self.lock) };
        result
    }

    /// The flows of the bucket, for a holder of the lock.
    #[inline(always)]
    fn flows(&self) -> &FlowBucket {
        // SAFETY: an element of an array map is never freed. Other processors do not write it while this one holds the lock, which
        // only `evict_for` does without. User space writes only zeros over marks, and either value of a mark is right.
        unsafe { &*self.memory }
    }

    #[inline(always)]
    fn slot(&self, index: usize) -> MapSlot {
        // SAFETY: the bucket is an element of FLOWS.
        unsafe { MapSlot::of(self.memory, index) }
    }

    /// Sets when a flow ends. The caller holds the lock.
    #[inline(always)]
    fn set_end(&self, index: usize, end: u32) {
        let ends = self.memory.wrapping_byte_add(offset_of!(FlowBucket, ends)).cast::<u32>();
        // SAFETY: an element of an array map is never freed. Only holders of the lock use this field.
        unsafe { *ends.wrapping_add(index & (N_SLOTS - 1)) = end };
    }
}

/// Adds to the number of flows of an endpoint. The result of the addition is not used, because only then it is an operation that
/// kernels before 5.12 have.
#[inline(always)]
fn add_to_count(owner: IfIndex, number: u64) {
    if let Some(count) = FLOW_COUNTS.get_ptr_mut(flow_table::count_index(owner)) {
        #[cfg(target_arch = "bpf")]
        // SAFETY: an element of an array map is never freed, and is accessed by atomic operations only.
        unsafe {
            atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count, number);
        }
        #[cfg(not(target_arch = "bpf"))]
        // SAFETY: as above.
        unsafe {
            AtomicU64::from_ptr(count).fetch_add(number, Ordering::Relaxed);
        }
    }
}

/// The number of flows of an endpoint.
#[inline(always)]
fn n_flows(owner: IfIndex) -> u32 {
    let Some(count) = FLOW_COUNTS.get_ptr(flow_table::count_index(owner)) else { return 0 };
    // SAFETY: an element of an array map is never freed.
    let count = unsafe { ptr::read_volatile(count) };
    // Below zero if user space has counted a removal before the program has counted the addition.
    if count > u64::from(u32::MAX) {
        return 0;
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    {
        count as u32
    }
}

/// See [`maps::PolicyMaps::current_flow`]. Without `sender` the address that the pod sends from does not matter. `packet` holds the
/// direction and, from bit 8 on, the TCP flags.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn current_flow(
    key: *const FlowKey,
    sender: *const Addr,
    now: u64,
    epoch: u32,
    packet: u32,
) -> u64 {
    // SAFETY: the caller's own, or null.
    let Some(key) = (unsafe { key.as_ref() }) else { return ABSENT };
    // SAFETY: the caller's own, or null.
    let sender = unsafe { sender.as_ref() };
    let [direction, tcp_flags, ..] = packet.to_le_bytes();
    let direction = if direction == Direction::Ingress.to_wire() {
        Direction::Ingress
    } else {
        Direction::Egress
    };
    let step = Step { now: Nanos(now), epoch: Epoch(epoch), direction, tcp_flags };
    let found = if FLOW_READS_LOCK.load() == 0 {
        let FlowHash { bucket, mark } = hash(key);
        let Some(memory) = FLOWS.get_ptr_mut(bucket) else { return ABSENT };
        // SAFETY: the bucket is an element of FLOWS.
        let slots = |index| unsafe { MapSlot::of(memory, index) };
        flow_table::current_flow(slots, mark, key, sender, &step)
    } else {
        let Some(bucket) = Bucket::of(key) else { return ABSENT };
        let slots = |index| bucket.slot(index);
        bucket.locked(|| flow_table::current_under_lock(slots, bucket.mark, key, sender, &step))
    };
    match found {
        CurrentFlow::Yes { rule, redirect } => {
            CURRENT | u64::from(redirect.0) << 32 | u64::from(rule.0)
        }
        CurrentFlow::No => STALE,
        CurrentFlow::Absent => ABSENT,
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
    let Some(bucket) = Bucket::of(key) else { return 0 };
    bucket.locked(|| match bucket.flows().find(bucket.mark, key) {
        Some(index) => {
            let slot = bucket.slot(index);
            *flow = slot.flow();
            if slot.local() == *sender { 2 } else { 1 }
        }
        None => 0,
    })
}

/// Adds or replaces a flow, unless its bucket is [`FULL`]. Without `local` the address that the pod sends from is unknown.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn write_flow(key: *const FlowKey, flow: *const FlowValue, local: *const Addr) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    // SAFETY: the caller's own, or null.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return 0 };
    // SAFETY: the caller's own, or null.
    let local = unsafe { local.as_ref() };
    let Some(bucket) = Bucket::of(key) else { return 0 };
    let previous = bucket.locked(|| {
        let mut index = bucket.flows().find(bucket.mark, key);
        // Values that are loaded again do not have to stay on the stack.
        compiler_fence(Ordering::SeqCst);
        if index.is_none() {
            index = bucket.flows().free(flow_table::tick(flow.last_seen));
        }
        let slot = bucket.slot(index?);
        let previous = flow_table::owner(slot.mark());
        flow_table::write(slot, bucket.mark, key, flow, local);
        bucket.set_end(index?, flow_table::end(flow, key.protocol));
        Some(previous)
    });
    let Some(previous) = previous else { return FULL };
    if previous != key.ifindex {
        add_to_count(key.ifindex, 1);
        if previous.0 != 0 {
            add_to_count(previous, LESS);
        }
    }
    DONE
}

/// Evicts a flow from the bucket of this one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn evict_for(key: *const FlowKey) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    let Some(bucket) = Bucket::of(key) else { return 0 };
    // Without the lock, because the verifier allows no look-ups with it. So the choice may be outdated.
    let victim = bucket.slot(bucket.flows().victim(n_flows));
    let mark = victim.mark();
    let is_evicted = bucket.locked(|| {
        let is_same = victim.mark() == mark;
        if is_same {
            flow_table::free(victim);
        }
        is_same
    });
    if !is_evicted || mark == 0 {
        return 0;
    }
    add_to_count(flow_table::owner(mark), LESS);
    if let Some(n_evicted) = EVICTIONS.get_ptr_mut(0) {
        // SAFETY: the element is this CPU's own.
        unsafe { *n_evicted += 1 };
    }
    DONE
}

/// Writes the state of a flow, if there is such a flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn renew_flow(key: *const FlowKey, flow: *const FlowValue) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    // SAFETY: the caller's own, or null.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return 0 };
    let Some(bucket) = Bucket::of(key) else { return 0 };
    bucket.locked(|| {
        if let Some(index) = bucket.flows().find(bucket.mark, key) {
            flow_table::renew(bucket.slot(index), flow);
            bucket.set_end(index, flow_table::end(flow, key.protocol));
        }
    });
    1
}

/// See [`maps::PolicyMaps::current_flow`].
#[inline(always)]
pub(crate) fn current(key: &FlowKey, sender: Option<&Addr>, step: &Step) -> CurrentFlow {
    let Step { now, epoch, direction, tcp_flags } = *step;
    let packet = u32::from_le_bytes([direction.to_wire(), tcp_flags, 0, 0]);
    let sender = sender.map_or(ptr::null(), ptr::from_ref);
    match current_flow(key, sender, now.0, epoch.0, packet) {
        ABSENT => CurrentFlow::Absent,
        STALE => CurrentFlow::No,
        #[expect(clippy::cast_possible_truncation, reason = "the parts of the number")]
        found => CurrentFlow::Yes {
            rule: RuleId(found as u32),
            redirect: IfIndex(((found & !CURRENT) >> 32) as u32),
        },
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
