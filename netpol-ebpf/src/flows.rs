//! The table of connections in the kernel: [`flow_table`] with its locks, and the order of loads and stores.
//!
//! What looks for a connection and what writes one are global functions: the verifier walks each once by itself.
#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "the bounds of ways are plain to the compiler and to the verifier, and numbers are packed on purpose"
)]

use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::Global;
use aya_ebpf::bindings::{self, BPF_F_MMAPABLE};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::bpf_skb_load_bytes;
use aya_ebpf::helpers::generated::{bpf_spin_lock, bpf_spin_unlock};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use netpol_common::addr::Addr;
use netpol_common::flow::{self, Step};
use netpol_common::flow_table::{self, FlowSet, FlowSlot, N_WAYS, Place};
use netpol_common::ids::{Direction, Epoch, Nanos, RuleId};
use netpol_common::keys::{FlowEntry, FlowKey, FlowValue};
use netpol_common::maps::{self, Local, Settled};
use netpol_common::packet::ETHERNET_LEN;

#[btf_map]
static FLOWS: Array<FlowSet, { maps::N_FLOW_SETS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();
#[btf_map]
static FLOW_LOCKS: Array<FlowLock, { maps::N_FLOW_LOCKS as usize }> = Array::new();
#[btf_map]
static EVICTIONS: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Of the table's hash; set by user space before loading, for the life of the table.
#[unsafe(no_mangle)]
static FLOW_SEED: Global<u64> = Global::new(0);
/// Number of sets less one; set by user space before loading.
#[unsafe(no_mangle)]
static FLOW_SET_MASK: Global<u32> = Global::new(maps::N_FLOW_SETS - 1);

/// The kernel finds the lock in a map's values by the name of its type.
#[repr(C)]
struct FlowLock {
    lock: bindings::bpf_spin_lock,
}

/// What [`settled_flow`] says of a connection that is not there.
const UNKNOWN: u64 = 0;
/// What it says where something is to be done, or somebody writes just now.
const UNSETTLED: u64 = 1;
/// What it says, with the rule in the lower half, where nothing is.
const SETTLED: u64 = 1 << 32;
/// What [`write_flow`] says where there is no room.
const FULL: u32 = 2;

#[inline(always)]
fn place(key: &FlowKey) -> Place {
    flow_table::place(key, FLOW_SEED.load(), FLOW_SET_MASK.load())
}

#[inline(always)]
fn lock_of(place: &Place) -> Option<*mut bindings::bpf_spin_lock> {
    let lock = FLOW_LOCKS.get_ptr_mut(place.set % maps::N_FLOW_LOCKS)?;
    // SAFETY: the element is always there.
    Some(unsafe { &raw mut (*lock).lock })
}

/// See [`maps::PolicyMaps::settled`]; without `sender` whoever sends may. `packet` is the direction and, from bit 8 on, TCP's
/// flags.
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
    let (key, sender) = unsafe { (key.as_ref(), sender.as_ref()) };
    let Some(key) = key else { return UNKNOWN };
    let [direction, tcp_flags, ..] = packet.to_le_bytes();
    let direction = if direction == Direction::Ingress.to_wire() {
        Direction::Ingress
    } else {
        Direction::Egress
    };
    let step = Step { now: Nanos(now), epoch: Epoch(epoch), direction, tcp_flags };
    let place = place(key);
    let Some(set) = FLOWS.get_ptr(place.set) else { return UNKNOWN };
    let mut way = 0;
    while way < N_WAYS {
        // SAFETY: the element is always there; others may write it meanwhile, which the number tells.
        unsafe {
            let mark = &raw const (*set).marks[way];
            if ptr::read_volatile(mark) == place.mark {
                let slot = &raw const (*set).slots[way];
                let number = ptr::read_volatile(&raw const (*slot).number);
                compiler_fence(Ordering::SeqCst);
                if number & 1 != 0 || ptr::read_volatile(mark) != place.mark {
                    return UNSETTLED;
                }
                if (*slot).holds(key) {
                    let FlowEntry { flow, local } = &(*slot).entry;
                    let is_own = sender.is_none_or(|sender| sender == local);
                    let is_settled = is_own && flow::is_settled(flow, key.protocol, &step);
                    let rule = flow.rule;
                    compiler_fence(Ordering::SeqCst);
                    let is_whole = ptr::read_volatile(&raw const (*slot).number) == number;
                    let is_settled = is_settled && is_whole;
                    return if is_settled { SETTLED | u64::from(rule.0) } else { UNSETTLED };
                }
            }
        }
        way += 1;
    }
    UNKNOWN
}

/// Reads a connection while nobody writes it: 0 if it is not there, 1 if the pod last sent from elsewhere on it, 2 if from
/// `sender`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_flow(key: *const FlowKey, sender: *const Addr, flow: *mut FlowValue) -> u32 {
    // SAFETY: the caller's own, or null.
    let (Some(key), Some(sender), Some(flow)) =
        (unsafe { (key.as_ref(), sender.as_ref(), flow.as_mut()) })
    else {
        return 0;
    };
    let place = place(key);
    let (Some(set), Some(lock)) = (FLOWS.get_ptr(place.set), lock_of(&place)) else { return 0 };
    let mut found = 0;
    // SAFETY: the lock is an element's, which is always there, and is let go of below. Nobody else writes the set meanwhile.
    unsafe {
        bpf_spin_lock(lock);
        if let Some(way) = (*set).find(place.mark, key) {
            let entry = &raw const (*set).slots[way & (N_WAYS - 1)].entry;
            *flow = (*entry).flow;
            found = if (*entry).local == *sender { 2 } else { 1 };
        }
        bpf_spin_unlock(lock);
    }
    found
}

/// Writes a connection, in the place of what was known of it, unless its set is [`FULL`]. Without `local` it is not known where the
/// pod sends from.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn write_flow(key: *const FlowKey, flow: *const FlowValue, local: *const Addr) -> u32 {
    // SAFETY: the caller's own, or null.
    let (Some(key), Some(flow)) = (unsafe { (key.as_ref(), flow.as_ref()) }) else { return 0 };
    // SAFETY: as above.
    let local = unsafe { local.as_ref() };
    let place = place(key);
    let (Some(set), Some(lock)) = (FLOWS.get_ptr_mut(place.set), lock_of(&place)) else { return 0 };
    // SAFETY: the lock is an element's, which is always there, and is let go of below. Nobody else writes the set meanwhile but
    // user space, which only frees ways.
    unsafe {
        bpf_spin_lock(lock);
        let mut found = (*set).find(place.mark, key);
        // What is read once more needs no stack.
        compiler_fence(Ordering::SeqCst);
        if found.is_none() {
            found = (*set).free(flow_table::tick(flow.last_seen));
        }
        let Some(way) = found else {
            bpf_spin_unlock(lock);
            return FULL;
        };
        let way = way & (N_WAYS - 1);
        let slot: *mut FlowSlot = &raw mut (*set).slots[way];
        begin_write(slot);
        ptr::write_volatile(&raw mut (*set).marks[way], place.mark);
        (*slot).ports = flow_table::ports(key);
        (*slot).remote = key.remote;
        copy_words(flow, &raw mut (*slot).entry.flow);
        match local {
            Some(local) => (*slot).entry.local = *local,
            None => (*slot).entry.local = Addr::UNSPECIFIED,
        }
        end_write(slot);
        (*set).ends[way] = flow_table::end(flow, key.protocol);
        bpf_spin_unlock(lock);
    }
    1
}

/// Lets one of the connections in the set of this one make room.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn evict_for(key: *const FlowKey) -> u32 {
    // SAFETY: the caller's own, or null.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    let place = place(key);
    let (Some(set), Some(lock)) = (FLOWS.get_ptr_mut(place.set), lock_of(&place)) else { return 0 };
    // SAFETY: as for `write_flow`.
    unsafe {
        bpf_spin_lock(lock);
        // Through memory, where the verifier does not follow it.
        ptr::write_volatile(&raw mut (*set).shares, (*set).shares());
        compiler_fence(Ordering::SeqCst);
        let way = (*set).victim(ptr::read_volatile(&raw const (*set).shares)) & (N_WAYS - 1);
        ptr::write_volatile(&raw mut (*set).marks[way], 0);
        bpf_spin_unlock(lock);
    }
    if let Some(n_evicted) = EVICTIONS.get_ptr_mut(0) {
        // SAFETY: the element is this processor's own.
        unsafe { *n_evicted += 1 };
    }
    1
}

/// Writes what is known of a connection, if it is there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn renew_flow(key: *const FlowKey, flow: *const FlowValue) -> u32 {
    // SAFETY: the caller's own, or null.
    let (Some(key), Some(flow)) = (unsafe { (key.as_ref(), flow.as_ref()) }) else { return 0 };
    let place = place(key);
    let (Some(set), Some(lock)) = (FLOWS.get_ptr_mut(place.set), lock_of(&place)) else { return 0 };
    // SAFETY: as for `write_flow`.
    unsafe {
        bpf_spin_lock(lock);
        if let Some(way) = (*set).find(place.mark, key) {
            let way = way & (N_WAYS - 1);
            let slot: *mut FlowSlot = &raw mut (*set).slots[way];
            begin_write(slot);
            copy_words(flow, &raw mut (*slot).entry.flow);
            end_write(slot);
            (*set).ends[way] = flow_table::end(flow, key.protocol);
        }
        bpf_spin_unlock(lock);
    }
    1
}

/// Copies what is known of a connection: as fields it would be taken apart on the stack.
///
/// # Safety
/// `to` must be valid for writes.
#[inline(always)]
unsafe fn copy_words(flow: &FlowValue, to: *mut FlowValue) {
    let words: &[u64; 3] = zerocopy::transmute_ref!(flow);
    // SAFETY: both have this size and alignment.
    unsafe { *to.cast::<[u64; 3]>() = *words };
}

/// Makes the number odd: readers ask again.
///
/// # Safety
/// Of a set whose lock is held.
#[inline(always)]
unsafe fn begin_write(slot: *mut FlowSlot) {
    // SAFETY: see above.
    unsafe {
        let number = &raw mut (*slot).number;
        ptr::write_volatile(number, ptr::read_volatile(number).wrapping_add(1));
    }
    compiler_fence(Ordering::SeqCst);
}

/// Makes the number even, and another one than before.
///
/// # Safety
/// As for [`begin_write`], after it.
#[inline(always)]
unsafe fn end_write(slot: *mut FlowSlot) {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: see above.
    unsafe {
        let number = &raw mut (*slot).number;
        ptr::write_volatile(number, ptr::read_volatile(number).wrapping_add(1));
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
        // In vain if another has taken the room: the next packet is decided again.
        write_flow(key, flow, local);
    }
}

/// A connection on its way from user space: behind an Ethernet header that says nothing.
#[repr(C)]
struct Told {
    key: FlowKey,
    pad: u32,
    flow: FlowValue,
}

/// Hangs nowhere: user space runs it to make a connection known, for it cannot take the locks. One that is known already stays as
/// it is.
#[classifier]
#[inline(always)]
fn add_flow(ctx: TcContext) -> i32 {
    let TcContext { skb } = ctx;
    let mut told = MaybeUninit::<Told>::uninit();
    // SAFETY: there is room for as many bytes; the helper checks the packet's bounds, and fills all of it or fails.
    let failure = unsafe {
        bpf_skb_load_bytes(
            skb.skb.cast(),
            ETHERNET_LEN,
            told.as_mut_ptr().cast(),
            const { size_of::<Told>() as u32 },
        )
    };
    if failure != 0 {
        return 1;
    }
    // SAFETY: filled by the helper, and any bytes make one.
    let told = unsafe { told.assume_init_ref() };
    let mut known = FlowValue::UNKNOWN;
    if read(&told.key, &told.key.remote, &mut known).is_none() {
        write(&told.key, &told.flow, Local::Unknown);
    }
    0
}
