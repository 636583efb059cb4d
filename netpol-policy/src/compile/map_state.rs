//! The full desired content of all maps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, Identity, IfIndex};
use netpol_common::keys::{AddressKey, AllowKey, AllowValue, EndpointValue, PrefixKey};

/// The entries of one allow map.
pub type AllowMap = BTreeMap<AllowKey, AllowValue>;

/// One direction of one endpoint: whose allow map it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllowMapKey {
    /// The pod's host interface.
    pub ifindex: IfIndex,
    /// The direction as the pod sees it.
    pub direction: Direction,
}

impl AllowMapKey {
    /// The allow map of one direction of one endpoint.
    pub const fn new(ifindex: IfIndex, direction: Direction) -> Self {
        Self { ifindex, direction }
    }
}

/// What the maps should hold. Flows, fragments, counters and the epoch are the kernel's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapState {
    /// ENDPOINTS.
    pub endpoints: BTreeMap<IfIndex, EndpointMapState>,
    /// ADDRESSES.
    pub addresses: BTreeSet<AddressKey>,
    /// IDENTITIES.
    pub identities: BTreeMap<Addr, Identity>,
    /// PREFIXES.
    pub prefixes: BTreeMap<PrefixKey, Identity>,
    /// ALLOW and the places in it that endpoints lead to, with equal maps shared.
    pub allow: BTreeMap<AllowMapKey, Arc<AllowMap>>,
    /// DEFER.
    pub defer: BTreeSet<Addr>,
    /// EGRESS_MARKS.
    pub egress_marks: BTreeMap<u16, IfIndex>,
}

impl MapState {
    /// Every identity that an address or a prefix holds.
    pub fn held_identities(&self) -> BTreeSet<Identity> {
        self.identities.values().chain(self.prefixes.values()).copied().collect()
    }
}

/// One entry of ENDPOINTS, with whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointMapState {
    /// What the kernel reads.
    pub value: EndpointValue,
    /// The sandbox: another one on the same interface index is another endpoint.
    pub container_id: Arc<str>,
}

impl EndpointMapState {
    /// An endpoint whose pod is not known: nothing passes.
    pub fn blocked(container_id: &Arc<str>) -> Self {
        Self { value: EndpointValue::blocked(), container_id: Arc::clone(container_id) }
    }
}
