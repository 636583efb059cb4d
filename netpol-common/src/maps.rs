//! Names and capacities of the maps, and the look-ups that a verdict needs.

use crate::addr::Addr;
use crate::flow::Step;
use crate::ids::{Direction, Epoch, Identity, IfIndex, PortBe, Protocol, RuleId};
use crate::keys::{
    AddressKey, AllowValue, BackendValue, EndpointValue, FlowKey, FlowValue, FragmentKey,
    FragmentValue,
};

/// Version of all layouts in [`crate::keys`] and [`crate::event`]; part of the pin path.
pub const ABI_VERSION: u32 = 4;

/// Pod interfaces: ifindex → [`crate::keys::EndpointEntry`].
pub const ENDPOINTS: &str = "ENDPOINTS";
/// Addresses that an interface may send from: [`AddressKey`] → ().
pub const ADDRESSES: &str = "ADDRESSES";
/// Identities of single addresses, looked up first: family → a table, [`crate::identities`].
pub const IDENTITIES: &str = "IDENTITIES";
/// Identities of address blocks: [`crate::keys::PrefixKey`] → [`Identity`].
pub const PREFIXES: &str = "PREFIXES";
/// Place ([`crate::keys::EndpointEntry::allow_map`]) → allow map ([`crate::keys::AllowKey`] → [`AllowValue`]), an array of
/// [`N_ALLOW_MAPS`].
pub const ALLOW: &str = "ALLOW";
/// Connections: an array of [`N_FLOW_SETS`] [`crate::flow_table::FlowSet`].
pub const FLOWS: &str = "FLOWS";
/// The locks of the sets of FLOWS, an array of [`N_FLOW_LOCKS`].
pub const FLOW_LOCKS: &str = "FLOW_LOCKS";
/// The seed of the hash by which connections stand in FLOWS, one element; no program reads it here.
pub const FLOW_SEED: &str = "FLOW_SEED";
/// Connections that had to make room for others before they had ended, per CPU, one element.
pub const EVICTIONS: &str = "EVICTIONS";
/// Datagrams in pieces: [`FragmentKey`] → [`FragmentValue`].
pub const FRAGMENTS: &str = "FRAGMENTS";
/// Service and own-node addresses: [`Addr`] → ().
pub const DEFER: &str = "DEFER";
/// Egress mark → ifindex of the endpoint, an array of [`N_EGRESS_MARKS`].
pub const EGRESS_MARKS: &str = "EGRESS_MARKS";
/// Deferred packets on their way to where the verdict is finished: a number, see [`PolicyMaps::store_deferred_flow`] → [`FlowKey`].
pub const DEFERRED_FLOWS: &str = "DEFERRED_FLOWS";
/// Connections to Services: [`FlowKey`] as the pod sees it → [`BackendValue`].
pub const BACKENDS: &str = "BACKENDS";
/// The policy generation, one element.
pub const EPOCH: &str = "EPOCH";
/// Packets and bytes by endpoint, direction and verdict, per CPU, with what may be recorded of them.
pub const COUNTERS: &str = "COUNTERS";
/// Ring buffer of [`crate::event::Event`].
pub const EVENTS: &str = "EVENTS";
/// ifindex → container id, padded with zeros; no program reads it.
pub const CONTAINERS: &str = "CONTAINERS";

/// Every pinned map.
pub const ALL: [&str; 18] = [
    ENDPOINTS,
    ADDRESSES,
    IDENTITIES,
    PREFIXES,
    ALLOW,
    FLOWS,
    FLOW_LOCKS,
    FLOW_SEED,
    EVICTIONS,
    FRAGMENTS,
    DEFER,
    EGRESS_MARKS,
    DEFERRED_FLOWS,
    BACKENDS,
    EPOCH,
    COUNTERS,
    EVENTS,
    CONTAINERS,
];

/// What packets have left behind. Another version of the agent goes on with these maps if they have the layout of its own:
/// a map whose fields change their meaning and not their size must get another name.
pub const CARRIED_OVER: [&str; 9] =
    [FLOWS, FLOW_LOCKS, FLOW_SEED, EVICTIONS, FRAGMENTS, DEFERRED_FLOWS, BACKENDS, EPOCH, COUNTERS];

/// Endpoints on one node; kubelet's default limit is 110 pods, large nodes run 500.
pub const MAX_ENDPOINTS: u32 = 4096;
/// Addresses of local endpoints: both families and room for secondary ones.
pub const MAX_ADDRESSES: u32 = 4 * MAX_ENDPOINTS;
/// Addresses of pods in peer sets: those of the largest clusters (150,000 pods), both families. Their tables grow with them.
pub const MAX_IDENTITIES: u32 = 1 << 19;
/// Address blocks and exceptions.
pub const MAX_PREFIXES: u32 = 1 << 20;
/// Places of allow maps, number 0 is "none": two for each endpoint, and as many to fill before an endpoint is led there.
pub const N_ALLOW_MAPS: u32 = 4 * MAX_ENDPOINTS;
/// Entries of one allow map.
pub const MAX_ALLOW_ENTRIES: u32 = 1 << 20;
/// Sets of connections of all endpoints together, a power of two: eight connections each, 640 bytes, taken at once.
///
/// A quarter of a million connections. While a third of them lives, one in some thousands finds its set full of others that live.
pub const N_FLOW_SETS: u32 = 1 << 15;
/// Locks, each of every so many sets: those of the processors hardly ever meet.
pub const N_FLOW_LOCKS: u32 = 1 << 10;
/// Datagrams in pieces.
pub const MAX_FRAGMENTS: u32 = 1 << 13;
/// Service and own-node addresses.
pub const MAX_DEFER: u32 = 1 << 16;
/// Egress marks, number 0 is "none".
pub const N_EGRESS_MARKS: u32 = 4096;
/// Deferred flow handles, number 0 is "none". Between the two hooks there are some packets for each CPU, seldom more.
pub const N_DEFERRED_FLOWS: u32 = 4096;
/// Connections to Services of isolated endpoints, least recently used ones evicted.
pub const MAX_BACKENDS: u32 = 1 << 15;
/// Endpoint, direction and verdict combinations that were seen.
pub const MAX_COUNTERS: u32 = 8 * MAX_ENDPOINTS;
/// Size of the event ring in bytes: a power of two and a multiple of the page size.
pub const EVENTS_LEN_BYTES: u32 = 1 << 18;

/// Bits of the packet mark that carry an egress mark unless configured otherwise; kube-proxy uses 0xc000.
pub const DEFAULT_MARK_MASK: u32 = 0xfff0_0000;

/// Whether a packet belongs to a connection about which nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It does; the rule that allowed it.
    Yes(RuleId),
    /// Something is to be written or decided, or changes just now.
    No,
    /// Its connection is not known.
    Unknown,
}

/// What becomes of [`crate::keys::FlowEntry::local`] when a connection is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local<'a> {
    /// It stays as it is; if the connection is not there, nothing is written.
    Kept,
    /// Nothing is known.
    Unknown,
    /// It is this.
    At(&'a Addr),
}

/// By what [`PolicyMaps::allow`] finds the allow maps of an endpoint again; a matter of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowSlots(pub u32);

/// The state that a verdict depends on.
///
/// Implemented by the kernel's maps, by an image in memory, and by a fake in unit tests.
pub trait PolicyMaps {
    /// How the interface is treated, and by what its allow maps are found again; `None` if it is no endpoint.
    fn endpoint(&self, ifindex: IfIndex) -> Option<(EndpointValue, AllowSlots)>;
    /// Whether the interface may send from the address.
    fn owns_address(&self, key: &AddressKey) -> bool;
    /// The identity of an address: its own entry, else the longest prefix, else [`Identity::NONE`].
    fn identity(&self, addr: &Addr) -> Identity;
    /// The longest matching entry of an endpoint's allow map of a direction for the identity, if it is one, else for
    /// [`Identity::ANY`].
    fn allow(
        &self,
        places: AllowSlots,
        direction: Direction,
        identity: Identity,
        protocol: Protocol,
        port: PortBe,
    ) -> Option<AllowValue>;
    /// Asks [`crate::flow::is_settled`] where the connection stands, without waiting for anybody; and whether the pod last sent
    /// from `sender` on it, if that is given.
    fn settled(&self, key: &FlowKey, sender: Option<&Addr>, step: &Step) -> Settled;
    /// Copies what is known of a connection, expired or not. Tells whether the pod last sent from `sender` on it
    /// ([`crate::keys::FlowEntry::local`]), or nothing if there is none.
    fn flow(&self, key: &FlowKey, sender: &Addr, flow: &mut FlowValue) -> Option<bool>;
    /// Makes the entry of a connection, or replaces it. Failure only costs the entry.
    fn set_flow(&self, key: &FlowKey, flow: &FlowValue, local: Local<'_>);
    /// What the first fragment told.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;
    /// Remembers a first fragment.
    fn set_fragment(&self, key: &FragmentKey, value: &FragmentValue);
    /// Whether egress to this address is decided later, after Service translation.
    fn is_deferred(&self, addr: &Addr) -> bool;
    /// The endpoint behind an egress mark.
    fn egress_mark_owner(&self, egress_mark: u16) -> Option<IfIndex>;
    /// Keeps the key of a deferred packet's connection until its verdict is finished; returns the number that it can be
    /// had back by, 0 if it could not be kept.
    fn store_deferred_flow(&self, key: &FlowKey) -> u16;
    /// Gives back what was kept, once.
    fn take_deferred_flow(&self, flow_handle: u16) -> Option<FlowKey>;
    /// Where a connection to a Service really goes, if that is known.
    fn backend(&self, key: &FlowKey) -> Option<BackendValue>;
    /// Remembers where a connection to a Service really goes. Failure only costs the entry.
    fn set_backend(&self, key: &FlowKey, value: &BackendValue);
    /// The current policy generation.
    fn epoch(&self) -> Epoch;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_is_filled_by_the_agent_or_carried_over() {
        // The records in EVENTS have a reader, or had one.
        let filled = [
            ENDPOINTS,
            ADDRESSES,
            IDENTITIES,
            PREFIXES,
            ALLOW,
            DEFER,
            EGRESS_MARKS,
            EVENTS,
            CONTAINERS,
        ];
        for name in ALL {
            assert_ne!(filled.contains(&name), CARRIED_OVER.contains(&name), "{name}");
        }
        assert_eq!(filled.len() + CARRIED_OVER.len(), ALL.len());
    }
}
