//! The layout of each map, to check that this build can use a pinned map of an earlier one.

use std::collections::BTreeMap;

use aya::maps::{MapError, MapInfo, MapType};
use netpol_common::addr::Addr;
use netpol_common::flow_table::FlowBucket;
use netpol_common::identities::N_FAMILIES;
use netpol_common::ids::{Epoch, Identity, IfIndex, RuleId};
use netpol_common::keys::{
    AddressKey, BackendEntry, CounterKey, CounterValue, EndpointEntry, EndpointSlot, FlowKey,
    FragmentEntry, FragmentSlot, Known, NodeBackendEntry, NodeKey, Overlay, PrefixKey,
};
use netpol_common::maps;

/// `BPF_F_NO_PREALLOC`: the kernel allocates an entry when it is written.
pub(crate) const NO_PREALLOC: u32 = 1;

/// A container id, padded with zeros.
pub(crate) type ContainerId = [u8; 128];

/// The kind and sizes of a map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    /// Its name.
    pub(crate) name: &'static str,
    map_type: MapType,
    key_len_bytes: u32,
    value_len_bytes: u32,
    /// Size as the kernel reports it: entries, or bytes for the ring buffer.
    max_entries: u32,
    /// Entries that it may hold: `max_entries`, except for maps [of tables](is_of_tables).
    pub(crate) capacity: u32,
}

impl Layout {
    /// The properties in which two maps can differ, with the values of `self` and `found`.
    pub(crate) fn compare(&self, found: &Self) -> [(&'static str, u32, u32); 4] {
        [
            ("type", self.map_type as u32, found.map_type as u32),
            ("key size", self.key_len_bytes, found.key_len_bytes),
            ("value size", self.value_len_bytes, found.value_len_bytes),
            ("capacity", self.max_entries, found.max_entries),
        ]
    }
}

/// The layout of a map in the kernel.
///
/// # Errors
/// aya does not know the map's type.
pub(crate) fn of(name: &'static str, map: &MapInfo) -> Result<Layout, MapError> {
    Ok(Layout {
        name,
        map_type: map.map_type()?,
        key_len_bytes: map.key_size(),
        value_len_bytes: map.value_size(),
        max_entries: map.max_entries(),
        capacity: map.max_entries(),
    })
}

/// Whether a map is an array of tables, so that its size for the kernel is not the number of its entries.
pub(crate) fn is_of_tables(name: &str) -> bool {
    name == maps::IDENTITIES
}

/// The layouts of all maps of this build, with the capacities of the configuration.
pub(crate) fn expected(capacities: &BTreeMap<&'static str, u32>) -> Vec<Layout> {
    let mut layouts = vec![
        map::<IfIndex, EndpointEntry>(maps::ENDPOINTS, MapType::Hash, maps::MAX_ENDPOINTS),
        map::<u32, EndpointSlot>(maps::ENDPOINT_SLOTS, MapType::Array, maps::N_ENDPOINT_SLOTS),
        map::<AddressKey, IfIndex>(maps::ADDRESSES, MapType::Hash, maps::MAX_ADDRESSES),
        Layout {
            max_entries: N_FAMILIES,
            ..map::<u32, u32>(maps::IDENTITIES, MapType::ArrayOfMaps, maps::MAX_IDENTITIES)
        },
        map::<PrefixKey, Identity>(maps::PREFIXES, MapType::LpmTrie, maps::MAX_PREFIXES),
        map::<u32, u32>(maps::ALLOW, MapType::ArrayOfMaps, maps::N_ALLOW_MAPS),
        map::<u32, FlowBucket>(maps::FLOWS, MapType::Array, maps::N_FLOW_BUCKETS),
        map::<u32, u64>(maps::FLOW_COUNTS, MapType::Array, maps::N_FLOW_COUNTS),
        map::<u32, u32>(maps::FLOW_LOCKS, MapType::Array, maps::N_FLOW_LOCKS),
        map::<u32, u64>(maps::FLOW_SEED, MapType::Hash, 1),
        map::<u32, u64>(maps::EVICTIONS, MapType::PerCpuArray, 1),
        map::<FragmentSlot, FragmentEntry>(maps::FRAGMENTS, MapType::LruHash, maps::MAX_FRAGMENTS),
        map::<Addr, u8>(maps::DEFER, MapType::Hash, maps::MAX_DEFER),
        map::<NodeKey, u8>(maps::OWN_NODE, MapType::Hash, maps::MAX_OWN_NODE),
        map::<NodeKey, NodeBackendEntry>(
            maps::NODE_BACKENDS,
            MapType::Hash,
            maps::MAX_NODE_BACKENDS,
        ),
        map::<Addr, Known>(maps::KNOWN, MapType::Hash, maps::MAX_KNOWN),
        map::<u32, u64>(maps::TUNNEL_PORTS, MapType::Array, maps::N_PORT_WORDS),
        map::<u32, Overlay>(maps::OVERLAY, MapType::Array, N_FAMILIES),
        map::<PrefixKey, u8>(maps::OVERLAY_PREFIXES, MapType::LpmTrie, maps::MAX_OVERLAY_PREFIXES),
        map::<u32, IfIndex>(maps::EGRESS_MARKS, MapType::Array, maps::N_EGRESS_MARKS),
        map::<u32, FlowKey>(maps::DEFERRED_FLOWS, MapType::Hash, maps::N_DEFERRED_FLOWS),
        map::<FlowKey, BackendEntry>(maps::BACKENDS, MapType::LruHash, maps::MAX_BACKENDS),
        map::<u32, Epoch>(maps::EPOCH, MapType::Array, 1),
        map::<CounterKey, CounterValue>(maps::COUNTERS, MapType::PerCpuHash, maps::MAX_COUNTERS),
        map::<RuleId, u64>(maps::RULE_COUNTS, MapType::PerCpuHash, maps::MAX_RULE_COUNTS),
        map::<(), ()>(maps::EVENTS, MapType::RingBuf, maps::EVENTS_LEN_BYTES),
        map::<IfIndex, ContainerId>(maps::CONTAINERS, MapType::Hash, maps::MAX_ENDPOINTS),
    ];
    for layout in &mut layouts {
        if let Some(capacity) = capacities.get(layout.name) {
            layout.capacity = *capacity;
            if !is_of_tables(layout.name) {
                layout.max_entries = *capacity;
            }
        }
    }
    layouts
}

fn map<K, V>(name: &'static str, map_type: MapType, capacity: u32) -> Layout {
    Layout {
        name,
        map_type,
        key_len_bytes: len_bytes::<K>(),
        value_len_bytes: len_bytes::<V>(),
        max_entries: capacity,
        capacity,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "keys and values are a few hundred bytes long at most"
)]
const fn len_bytes<T>() -> u32 {
    size_of::<T>() as u32
}
