//! The maps of the programs, except those of [`crate::flows`] and [`crate::identities`].
//!
//! Names must be those of [`netpol_common::maps`], which has the capacities and their reasons too.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_LPM_TRIE;
use aya_ebpf::btf_maps::{
    Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuHashMap, RingBuf,
};
use aya_ebpf::macros::btf_map;
use netpol_common::addr::Addr;
use netpol_common::event::Event;
use netpol_common::identities::N_FAMILIES;
use netpol_common::ids::{Epoch, Identity, IfIndex, RuleId};
use netpol_common::keys::{
    AddressKey, AllowKey, AllowValue, BackendEntry, CounterKey, CounterValue, EndpointEntry,
    EndpointSlot, FlowKey, FragmentEntry, FragmentSlot, Known, NodeBackendEntry, NodeKey, Overlay,
};
use netpol_common::maps;

/// Memory is allocated when an entry is added, so that capacities cost nothing.
const LAZY: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub(crate) static ENDPOINTS: HashMap<
    IfIndex,
    EndpointEntry,
    { maps::MAX_ENDPOINTS as usize },
    LAZY,
> = HashMap::new();
#[btf_map]
pub(crate) static ENDPOINT_SLOTS: Array<EndpointSlot, { maps::N_ENDPOINT_SLOTS as usize }> =
    Array::new();
#[btf_map]
pub(crate) static ADDRESSES: HashMap<AddressKey, IfIndex, { maps::MAX_ADDRESSES as usize }, LAZY> =
    HashMap::new();
#[btf_map]
pub(crate) static PREFIXES: LpmTrie<[u8; 16], Identity, { maps::MAX_PREFIXES as usize }> =
    LpmTrie::new();

/// The template of all allow maps, with sizes in place of types. The agent creates allow maps without type information, and
/// kernels before 6.2 accept a map in ALLOW only if the template has none either.
#[repr(C)]
pub(crate) struct AllowMap {
    r#type: *const [i32; BPF_MAP_TYPE_LPM_TRIE as usize],
    key_size: *const [i32; size_of::<AllowKey>()],
    value_size: *const [i32; size_of::<AllowValue>()],
    max_entries: *const [i32; maps::MAX_ALLOW_ENTRIES as usize],
    map_flags: *const [i32; LAZY],
}
#[btf_map]
pub(crate) static ALLOW: ArrayOfMaps<AllowMap, { maps::N_ALLOW_MAPS as usize }> =
    ArrayOfMaps::new();

#[btf_map]
pub(crate) static FRAGMENTS: LruHashMap<
    FragmentSlot,
    FragmentEntry,
    { maps::MAX_FRAGMENTS as usize },
> = LruHashMap::new();
#[btf_map]
pub(crate) static DEFER: HashMap<Addr, u8, { maps::MAX_DEFER as usize }, LAZY> = HashMap::new();
#[btf_map]
pub(crate) static OWN_NODE: HashMap<NodeKey, u8, { maps::MAX_OWN_NODE as usize }, LAZY> =
    HashMap::new();
#[btf_map]
pub(crate) static NODE_BACKENDS: HashMap<
    NodeKey,
    NodeBackendEntry,
    { maps::MAX_NODE_BACKENDS as usize },
    LAZY,
> = HashMap::new();
#[btf_map]
pub(crate) static KNOWN: HashMap<Addr, Known, { maps::MAX_KNOWN as usize }, LAZY> = HashMap::new();
#[btf_map]
pub(crate) static TUNNEL_PORTS: Array<u64, { maps::N_PORT_WORDS as usize }> = Array::new();
#[btf_map]
pub(crate) static OVERLAY: Array<Overlay, { N_FAMILIES as usize }> = Array::new();
#[btf_map]
pub(crate) static OVERLAY_PREFIXES: LpmTrie<[u8; 16], u8, { maps::MAX_OVERLAY_PREFIXES as usize }> =
    LpmTrie::new();
#[btf_map]
pub(crate) static EGRESS_MARKS: Array<IfIndex, { maps::N_EGRESS_MARKS as usize }> = Array::new();
#[btf_map]
pub(crate) static DEFERRED_FLOWS: HashMap<u32, FlowKey, { maps::N_DEFERRED_FLOWS as usize }, LAZY> =
    HashMap::new();
#[btf_map]
pub(crate) static BACKENDS: LruHashMap<FlowKey, BackendEntry, { maps::MAX_BACKENDS as usize }> =
    LruHashMap::new();
#[btf_map]
pub(crate) static EPOCH: Array<Epoch, 1> = Array::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuHashMap<
    CounterKey,
    CounterValue,
    { maps::MAX_COUNTERS as usize },
    LAZY,
> = PerCpuHashMap::new();
#[btf_map]
pub(crate) static RULE_COUNTS: PerCpuHashMap<
    RuleId,
    u64,
    { maps::MAX_RULE_COUNTS as usize },
    LAZY,
> = PerCpuHashMap::new();
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, { maps::EVENTS_LEN_BYTES as usize }> = RingBuf::new();
