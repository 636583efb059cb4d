//! The full desired content of all maps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, Identity, IfIndex, PortBe, Protocol};
use netpol_common::keys::{
    AddressKey, AllowKey, AllowValue, BackendValue, EndpointValue, NodeKey, PrefixKey,
};
use netpol_common::mac::Mac;

/// The entries of one allow map.
pub type AllowMap = BTreeMap<AllowKey, AllowValue>;

/// Key of an allow map: one direction of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllowMapKey {
    /// The pod's host interface.
    pub ifindex: IfIndex,
    /// The direction from the pod's point of view.
    pub direction: Direction,
}

impl AllowMapKey {
    /// The allow map of one direction of one endpoint.
    pub const fn new(ifindex: IfIndex, direction: Direction) -> Self {
        Self { ifindex, direction }
    }
}

/// The content of all maps that the agent writes. The programs write flows, fragments and counters; the epoch only counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapState {
    /// ENDPOINTS and `ENDPOINT_SLOTS`.
    pub endpoints: BTreeMap<IfIndex, EndpointMapState>,
    /// ADDRESSES.
    pub addresses: BTreeSet<AddressKey>,
    /// IDENTITIES.
    pub identities: BTreeMap<Addr, Identity>,
    /// PREFIXES.
    pub prefixes: BTreeMap<PrefixKey, Identity>,
    /// ALLOW, with equal maps shared. The entry of an endpoint holds the slots of its maps.
    pub allow: BTreeMap<AllowMapKey, Arc<AllowMap>>,
    /// DEFER.
    pub defer: BTreeSet<Addr>,
    /// `OWN_NODE`.
    pub own_node: BTreeSet<NodeKey>,
    /// `NODE_BACKENDS`.
    pub node_backends: BTreeMap<NodeKey, BackendValue>,
    /// `EGRESS_MARKS`.
    pub egress_marks: BTreeMap<u16, IfIndex>,
}

impl MapState {
    /// Every identity that an address or a prefix has.
    pub fn held_identities(&self) -> BTreeSet<Identity> {
        self.identities.values().chain(self.prefixes.values()).copied().collect()
    }

    /// One direction of one endpoint, if it has an allow map.
    pub fn direction(&self, key: &AllowMapKey) -> Option<DirectionState<'_>> {
        let map = self.allow.get(key)?;
        let endpoint = self.endpoints.get(&key.ifindex);
        let is_audited = endpoint.is_some_and(|of| of.value.is_audited(key.direction));
        Some(DirectionState { map, is_audited })
    }
}

/// An allow map with the part of its endpoint's entry that a look-up without a matching entry depends on.
#[derive(Clone, Copy, Debug)]
pub struct DirectionState<'a> {
    /// The allow map.
    pub map: &'a Arc<AllowMap>,
    /// A connection without a matching entry passes and is reported.
    pub is_audited: bool,
}

impl DirectionState<'_> {
    /// Whether every entry allows, so that entries only ever open.
    pub fn only_allows(&self) -> bool {
        self.map.values().all(|value| value.verdict == AllowValue::ALLOW)
    }
}

/// One entry of ENDPOINTS with the sandbox that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointMapState {
    /// The value that the programs read.
    pub value: EndpointValue,
    /// The sandbox. Another one on the same interface index is another endpoint.
    pub container_id: Arc<str>,
    /// The MAC address of the pod; [`Mac::UNKNOWN`] if it is not known.
    pub mac: Mac,
}

impl EndpointMapState {
    /// An endpoint whose pod is unknown: nothing passes.
    pub fn blocked(container_id: &Arc<str>) -> Self {
        let container_id = Arc::clone(container_id);
        Self { value: EndpointValue::blocked(), container_id, mac: Mac::UNKNOWN }
    }
}

/// Finds the value of the longest entry that covers `key`, as the kernel's trie does for a look-up of all bits.
pub fn longest_entry(map: &AllowMap, key: &AllowKey) -> Option<AllowValue> {
    let [hi, lo] = key.port.0;
    let suffix = u32::from_be_bytes([key.protocol.0, key.pad, hi, lo]);
    (AllowKey::ALL_PROTOCOLS_BITS..=key.prefix_len_bits).rev().find_map(|prefix_len_bits| {
        let masked =
            suffix & u32::MAX.checked_shl(AllowKey::FULL_BITS - prefix_len_bits).unwrap_or(0);
        let [protocol, pad, hi, lo] = masked.to_be_bytes();
        let entry = AllowKey {
            prefix_len_bits,
            identity: key.identity,
            protocol: Protocol(protocol),
            pad,
            port: PortBe([hi, lo]),
        };
        map.get(&entry).copied()
    })
}
