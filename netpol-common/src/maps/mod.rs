//! The maps: what they are called, how much they hold, and the look-ups that a verdict needs from them.

mod capacities;
mod look_ups;
mod names;

pub use capacities::{
    EVENTS_LEN_BYTES, MAX_ADDRESSES, MAX_ALLOW_ENTRIES, MAX_BACKENDS, MAX_COUNTERS, MAX_DEFER,
    MAX_ENDPOINTS, MAX_FRAGMENTS, MAX_IDENTITIES, MAX_PREFIXES, N_ALLOW_MAPS, N_DEFERRED_FLOWS,
    N_EGRESS_MARKS, N_FLOW_BUCKETS, N_FLOW_LOCKS, N_MAC_SLOTS,
};
pub use look_ups::{CurrentFlow, Local, PolicyMaps};
pub use names::{
    ABI_VERSION, ADDRESSES, ALL, ALLOW, BACKENDS, CARRIED_OVER, CONTAINERS, COUNTERS, DEFER,
    DEFERRED_FLOWS, EGRESS_MARKS, ENDPOINTS, EPOCH, EVENTS, EVICTIONS, FLOW_LOCKS, FLOW_SEED,
    FLOWS, FRAGMENTS, IDENTITIES, MACS, PREFIXES,
};
