//! The maps, and the look-ups that a verdict needs from them.
//!
//! Names must be those of [`netpol_common::maps`], where capacities and their reasons are too.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_LPM_TRIE;
use aya_ebpf::btf_maps::{
    Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuHashMap, RingBuf,
};
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::macros::btf_map;
use netpol_common::addr::Addr;
use netpol_common::event::Event;
use netpol_common::flow::Step;
use netpol_common::ids::{Direction, Epoch, Identity, IfIndex, PortBe, Protocol};
use netpol_common::keys::{
    AddressKey, AllowKey, AllowSlots, AllowValue, BackendValue, CounterKey, CounterValue,
    EndpointEntry, EndpointValue, FlowKey, FlowValue, FragmentKey, FragmentValue, PrefixKey,
};
use netpol_common::maps::{self, Local, PolicyMaps, Settled};

use crate::look_up::find;
use crate::{flows, identities};

/// Memory is taken when an entry is made, so that capacities cost nothing.
const LAZY: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static ENDPOINTS: HashMap<IfIndex, EndpointEntry, { maps::MAX_ENDPOINTS as usize }, LAZY> =
    HashMap::new();
#[btf_map]
static ADDRESSES: HashMap<AddressKey, u8, { maps::MAX_ADDRESSES as usize }, LAZY> = HashMap::new();
#[btf_map]
static PREFIXES: LpmTrie<[u8; 16], Identity, { maps::MAX_PREFIXES as usize }> = LpmTrie::new();

/// What every allow map is like: a definition with sizes in place of types. The agent makes allow maps without type
/// information, and kernels before 6.2 take only maps for ALLOW that agree with this template in having none.
#[repr(C)]
struct AllowMap {
    r#type: *const [i32; BPF_MAP_TYPE_LPM_TRIE as usize],
    key_size: *const [i32; size_of::<AllowKey>()],
    value_size: *const [i32; size_of::<AllowValue>()],
    max_entries: *const [i32; maps::MAX_ALLOW_ENTRIES as usize],
    map_flags: *const [i32; LAZY],
}
#[btf_map]
static ALLOW: ArrayOfMaps<AllowMap, { maps::N_ALLOW_MAPS as usize }> = ArrayOfMaps::new();

#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue, { maps::MAX_FRAGMENTS as usize }> =
    LruHashMap::new();
#[btf_map]
static DEFER: HashMap<Addr, u8, { maps::MAX_DEFER as usize }, LAZY> = HashMap::new();
#[btf_map]
static EGRESS_MARKS: Array<IfIndex, { maps::N_EGRESS_MARKS as usize }> = Array::new();
#[btf_map]
static DEFERRED_FLOWS: HashMap<u32, FlowKey, { maps::N_DEFERRED_FLOWS as usize }, LAZY> =
    HashMap::new();
#[btf_map]
static BACKENDS: LruHashMap<FlowKey, BackendValue, { maps::MAX_BACKENDS as usize }> =
    LruHashMap::new();
#[btf_map]
static EPOCH: Array<Epoch, 1> = Array::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuHashMap<
    CounterKey,
    CounterValue,
    { maps::MAX_COUNTERS as usize },
    LAZY,
> = PerCpuHashMap::new();
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, { maps::EVENTS_LEN_BYTES as usize }> = RingBuf::new();

/// The kernel's maps as [`netpol_common::verdict::decide`] sees them.
pub(crate) struct KernelMaps;

impl PolicyMaps for KernelMaps {
    #[inline(always)]
    fn endpoint(&self, ifindex: IfIndex) -> Option<(EndpointValue, AllowSlots)> {
        // SAFETY: the value is copied at once, and freed only after a grace period (no preallocation).
        let entry = unsafe { ENDPOINTS.get(ifindex) }?;
        Some((entry.value, entry.places()))
    }

    #[inline(always)]
    fn owns_address(&self, key: &AddressKey) -> bool {
        ADDRESSES.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn identity(&self, addr: &Addr) -> Identity {
        if let Some(identity) = identities::entry(addr).identity() {
            return identity;
        }
        // SAFETY: as for `endpoint`.
        unsafe { find::<_, _, Identity>(&PREFIXES, &PrefixKey::lookup(*addr)) }
            .copied()
            .unwrap_or(Identity::NONE)
    }

    #[inline(always)]
    fn allow(
        &self,
        places: AllowSlots,
        direction: Direction,
        identity: Identity,
        protocol: Protocol,
        port: PortBe,
    ) -> Option<AllowValue> {
        // SAFETY: the memory of an allow map and of its entries outlives the program's run (RCU).
        unsafe {
            let inner = ALLOW.get(EndpointEntry::place(places, direction))?;
            if identity != Identity::NONE {
                let key = AllowKey::lookup(identity, protocol, port);
                if let Some(value) = find::<_, _, AllowValue>(inner, &key) {
                    return Some(*value);
                }
            }
            let key = AllowKey::lookup(Identity::ANY, protocol, port);
            find::<_, _, AllowValue>(inner, &key).copied()
        }
    }

    #[inline(always)]
    fn settled(&self, key: &FlowKey, sender: Option<&Addr>, step: &Step) -> Settled {
        flows::settled(key, sender, step)
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey, sender: &Addr, flow: &mut FlowValue) -> Option<bool> {
        flows::read(key, sender, flow)
    }

    #[inline(always)]
    fn set_flow(&self, key: &FlowKey, flow: &FlowValue, local: Local<'_>) {
        flows::write(key, flow, local);
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        // SAFETY: as for `flow`.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        // Lost: the other fragments drop.
        FRAGMENTS.insert(key, value, 0).ok();
    }

    #[inline(always)]
    fn is_deferred(&self, addr: &Addr) -> bool {
        DEFER.get_ptr(addr).is_some()
    }

    #[inline(always)]
    fn egress_mark_owner(&self, egress_mark: u16) -> Option<IfIndex> {
        EGRESS_MARKS.get(u32::from(egress_mark)).copied().filter(|owner| owner.0 != 0)
    }

    /// A function of its own: BPF has little stack.
    ///
    /// The number is drawn: that two packets between the hooks have the same one, and the same pod, is next to
    /// impossible, and the worst of it is that one connection's answers are judged by where the other goes.
    #[inline(never)]
    fn store_deferred_flow(&self, key: &FlowKey) -> u16 {
        // SAFETY: the helper has no arguments.
        let number = unsafe { bpf_get_prandom_u32() } % (maps::N_DEFERRED_FLOWS - 1) + 1;
        match DEFERRED_FLOWS.insert(number, key, 0) {
            Ok(()) => u16::try_from(number).unwrap_or(0),
            Err(_) => 0,
        }
    }

    #[inline(always)]
    fn take_deferred_flow(&self, flow_handle: u16) -> Option<FlowKey> {
        let number = u32::from(flow_handle);
        // SAFETY: as for `endpoint`.
        let key = unsafe { DEFERRED_FLOWS.get(number) }.copied();
        DEFERRED_FLOWS.remove(number).ok();
        key
    }

    #[inline(always)]
    fn backend(&self, key: &FlowKey) -> Option<BackendValue> {
        // SAFETY: as for `flow`.
        unsafe { BACKENDS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_backend(&self, key: &FlowKey, value: &BackendValue) {
        // Lost: answers are judged when the pod itself sends again.
        BACKENDS.insert(key, value, 0).ok();
    }

    #[inline(always)]
    fn epoch(&self) -> Epoch {
        EPOCH.get(0).copied().unwrap_or(Epoch(0))
    }
}
