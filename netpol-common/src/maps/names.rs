//! Names of the maps, and the version of their layouts.

/// Version of all layouts in [`crate::keys`] and [`crate::event`]; part of the pin path.
pub const ABI_VERSION: u32 = 9;

/// Pod interfaces: ifindex → [`EndpointEntry`](crate::keys::EndpointEntry).
pub const ENDPOINTS: &str = "ENDPOINTS";
/// Copies of the entries of ENDPOINTS: an array of [`EndpointSlot`](crate::keys::EndpointSlot).
pub const ENDPOINT_SLOTS: &str = "ENDPOINT_SLOTS";
/// Addresses that an interface may send from, and those of any interface: [`AddressKey`](crate::keys::AddressKey) → the interface that has it.
pub const ADDRESSES: &str = "ADDRESSES";
/// Identities of single addresses, looked up before PREFIXES: family → a table, see [`crate::identities`].
pub const IDENTITIES: &str = "IDENTITIES";
/// Identities of address blocks: [`PrefixKey`](crate::keys::PrefixKey) → [`Identity`](crate::ids::Identity).
pub const PREFIXES: &str = "PREFIXES";
/// Slot ([`Endpoint::allow_map`](crate::keys::Endpoint::allow_map)) → allow map
/// ([`AllowKey`](crate::keys::AllowKey) → [`AllowValue`](crate::keys::AllowValue)), an array of
/// [`N_ALLOW_MAPS`](super::N_ALLOW_MAPS).
pub const ALLOW: &str = "ALLOW";
/// Flows: an array of [`N_FLOW_BUCKETS`](super::N_FLOW_BUCKETS) [`FlowBucket`](crate::flow_table::FlowBucket).
pub const FLOWS: &str = "FLOWS";
/// Number of flows in FLOWS by endpoint ([`count_index`](crate::flow_table::count_index)), ended ones included: an array of
/// [`N_FLOW_COUNTS`](super::N_FLOW_COUNTS) numbers of 64 bits.
pub const FLOW_COUNTS: &str = "FLOW_COUNTS";
/// The locks of the buckets of FLOWS, an array of [`N_FLOW_LOCKS`](super::N_FLOW_LOCKS).
pub const FLOW_LOCKS: &str = "FLOW_LOCKS";
/// The seed of the hash that FLOWS uses, one element. Programs get the seed as a constant and never read this map.
pub const FLOW_SEED: &str = "FLOW_SEED";
/// Number of flows that were evicted before they had ended, per CPU, one element.
pub const EVICTIONS: &str = "EVICTIONS";
/// Fragmented datagrams: [`FragmentSlot`](crate::keys::FragmentSlot) → [`FragmentEntry`](crate::keys::FragmentEntry).
pub const FRAGMENTS: &str = "FRAGMENTS";
/// Addresses of Services and of the own node: [`Addr`](crate::addr::Addr) → ().
pub const DEFER: &str = "DEFER";
/// Addresses of the own node, and the ports that the node translates at all or one of them: [`NodeKey`](crate::keys::NodeKey) → ().
pub const OWN_NODE: &str = "OWN_NODE";
/// The backends of Services on the own node's network: [`NodeKey`](crate::keys::NodeKey) of the Service →
/// [`NodeBackendEntry`](crate::keys::NodeBackendEntry).
pub const NODE_BACKENDS: &str = "NODE_BACKENDS";
/// Addresses of nodes, and of pods: [`Addr`](crate::addr::Addr) → [`Known`](crate::keys::Known).
pub const KNOWN: &str = "KNOWN";
/// The ports of the nodes' tunnels: an array of [`N_PORT_WORDS`](super::N_PORT_WORDS) words with a bit for each port. Port 0 stands for
/// protocols without ports.
pub const TUNNEL_PORTS: &str = "TUNNEL_PORTS";
/// The devices that lead to the pods of other nodes past netfilter: family ([`family`](crate::identities::family)) →
/// [`Overlay`](crate::keys::Overlay), an array.
pub const OVERLAY: &str = "OVERLAY";
/// The blocks of pod addresses behind these devices: [`PrefixKey`](crate::keys::PrefixKey) → ().
pub const OVERLAY_PREFIXES: &str = "OVERLAY_PREFIXES";
/// Egress mark → ifindex of the endpoint, an array of [`N_EGRESS_MARKS`](super::N_EGRESS_MARKS).
pub const EGRESS_MARKS: &str = "EGRESS_MARKS";
/// Flows whose egress verdict is deferred: handle ([`PolicyMaps::store_deferred_flow`](super::PolicyMaps::store_deferred_flow)) →
/// [`FlowKey`](crate::keys::FlowKey).
pub const DEFERRED_FLOWS: &str = "DEFERRED_FLOWS";
/// Flows to Services: [`FlowKey`](crate::keys::FlowKey) before translation → [`BackendEntry`](crate::keys::BackendEntry).
pub const BACKENDS: &str = "BACKENDS";
/// The policy generation, one element.
pub const EPOCH: &str = "EPOCH";
/// Packets and bytes by endpoint, direction and verdict, per CPU, with the budget of event records.
pub const COUNTERS: &str = "COUNTERS";
/// Connections by rule, per CPU: [`RuleId`](crate::ids::RuleId) → number, see
/// [`PolicyMaps::count_rule`](super::PolicyMaps::count_rule). An agent names only its own numbers, so no other version carries it over.
pub const RULE_COUNTS: &str = "RULE_COUNTS";
/// Ring buffer of [`Event`](crate::event::Event).
pub const EVENTS: &str = "EVENTS";
/// ifindex → container id, padded with zeros. No program reads it.
pub const CONTAINERS: &str = "CONTAINERS";

/// Every pinned map.
pub const ALL: [&str; 27] = [
    ENDPOINTS,
    ENDPOINT_SLOTS,
    ADDRESSES,
    IDENTITIES,
    PREFIXES,
    ALLOW,
    FLOWS,
    FLOW_COUNTS,
    FLOW_LOCKS,
    FLOW_SEED,
    EVICTIONS,
    FRAGMENTS,
    DEFER,
    OWN_NODE,
    NODE_BACKENDS,
    KNOWN,
    TUNNEL_PORTS,
    OVERLAY,
    OVERLAY_PREFIXES,
    EGRESS_MARKS,
    DEFERRED_FLOWS,
    BACKENDS,
    EPOCH,
    COUNTERS,
    RULE_COUNTS,
    EVENTS,
    CONTAINERS,
];

/// Maps that packets fill. Another version of the agent takes them over if their layout is its own. A map whose fields change
/// their meaning but not their size must therefore get another name.
pub const CARRIED_OVER: [&str; 10] = [
    FLOWS,
    FLOW_COUNTS,
    FLOW_LOCKS,
    FLOW_SEED,
    EVICTIONS,
    FRAGMENTS,
    DEFERRED_FLOWS,
    BACKENDS,
    EPOCH,
    COUNTERS,
];

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;
    use crate::event::Event;
    use crate::keys::*;

    #[test]
    fn every_map_is_filled_by_the_agent_or_carried_over() {
        // The records in EVENTS have a reader, or had one. The numbers in RULE_COUNTS mean nothing to another agent.
        let filled = [
            ENDPOINTS,
            ENDPOINT_SLOTS,
            ADDRESSES,
            IDENTITIES,
            PREFIXES,
            ALLOW,
            DEFER,
            OWN_NODE,
            NODE_BACKENDS,
            KNOWN,
            TUNNEL_PORTS,
            OVERLAY,
            OVERLAY_PREFIXES,
            EGRESS_MARKS,
            RULE_COUNTS,
            EVENTS,
            CONTAINERS,
        ];
        for name in ALL {
            assert_ne!(filled.contains(&name), CARRIED_OVER.contains(&name), "{name}");
        }
        assert_eq!(filled.len() + CARRIED_OVER.len(), ALL.len());
    }

    /// A failure here is a change of the wire: bump [`ABI_VERSION`].
    #[test]
    fn layouts_are_those_of_this_abi_version() {
        assert_eq!(ABI_VERSION, 9);
        assert_eq!(size_of::<EndpointValue>(), 8);
        assert_eq!(offset_of!(EndpointValue, egress_mark), 6);
        assert_eq!(size_of::<Endpoint>(), 20);
        assert_eq!(offset_of!(Endpoint, allow_maps), 8);
        assert_eq!(offset_of!(Endpoint, mac), 12);
        assert_eq!(size_of::<EndpointEntry>(), 24);
        assert_eq!(size_of::<AddressKey>(), 20);
        assert_eq!(size_of::<NodeKey>(), 20);
        assert_eq!(size_of::<NodeBackendEntry>(), 24);
        assert_eq!(size_of::<PrefixKey>(), 20);
        assert_eq!(size_of::<AllowKey>(), 12);
        assert_eq!(offset_of!(AllowKey, protocol), 8);
        assert_eq!(offset_of!(AllowKey, port), 10);
        assert_eq!(size_of::<AllowValue>(), 8);
        assert_eq!(size_of::<FlowKey>(), 28);
        assert_eq!(offset_of!(FlowKey, protocol), 24);
        assert_eq!(size_of::<FlowValue>(), 24);
        assert_eq!(offset_of!(FlowValue, origin), 16);
        assert_eq!(size_of::<FlowEntry>(), 40);
        assert_eq!(offset_of!(FlowEntry, local), 24);
        assert_eq!(size_of::<BackendValue>(), 20);
        assert_eq!(size_of::<BackendEntry>(), 24);
        assert_eq!(size_of::<FragmentKey>(), 44);
        assert_eq!(size_of::<FragmentValue>(), 16);
        assert_eq!(size_of::<FragmentSlot>(), 8);
        assert_eq!(size_of::<FragmentEntry>(), 24);
        assert_eq!(size_of::<Overlay>(), 24);
        assert_eq!(offset_of!(Overlay, ifindex), 16);
        assert_eq!(size_of::<CounterKey>(), 8);
        assert_eq!(size_of::<CounterValue>(), 32);
        assert_eq!(size_of::<Event>(), 64);
    }
}
