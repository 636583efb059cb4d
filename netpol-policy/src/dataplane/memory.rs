//! The maps in memory: a map state and the state that packets write.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use netpol_common::addr::Addr;
use netpol_common::flow::{Step, is_current};
use netpol_common::ids::{Direction, Epoch, Identity, IfIndex, PortBe, Protocol, RuleId};
use netpol_common::keys::{
    AddressKey, AllowKey, AllowSlots, AllowValue, BackendValue, EndpointValue, FlowEntry, FlowKey,
    FlowValue, FragmentEntry, FragmentKey, FragmentSlot, FragmentValue, Known, NodeKey, Overlay,
    PrefixKey,
};
use netpol_common::mac::Mac;
use netpol_common::maps::{CurrentFlow, Local, PolicyMaps, TunnelMaps};
use netpol_common::packet::{Frame, Packet};
use netpol_common::verdict::{HookContext, Outcome, decide, is_tunnel};

use super::op::{MapOp, apply};
use crate::compile::{AllowMapKey, MapState, longest_entry};

/// Maps that judge packets as the kernel's maps do.
#[derive(Debug, Default)]
pub struct MemoryMaps {
    map_state: MapState,
    epoch: Cell<u32>,
    flows: RefCell<BTreeMap<FlowKey, FlowEntry>>,
    fragments: RefCell<BTreeMap<FragmentSlot, FragmentEntry>>,
    known: BTreeMap<Addr, Known>,
    tunnel_ports: BTreeSet<u16>,
    /// That of both families.
    overlay: Option<Overlay>,
    overlay_prefixes: BTreeSet<PrefixKey>,
    /// See [`MemoryMaps::with_flow_seed`].
    flow_seed: u64,
    flow_handles: RefCell<BTreeMap<u16, FlowKey>>,
    backends: RefCell<BTreeMap<FlowKey, BackendValue>>,
    rule_counts: RefCell<BTreeMap<RuleId, u64>>,
}

/// Result of judging a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The verdict, with the mark and the handle that the packet carries on.
    pub outcome: Outcome,
    /// The parsed headers of the frame.
    pub packet: Packet,
}

impl MemoryMaps {
    /// Maps with this content and no flow.
    pub fn new(map_state: MapState) -> Self {
        Self { map_state, ..Self::default() }
    }

    /// The same maps, with this seed for the hash that selects the slot of a fragmented datagram. Without it the seed is 0.
    #[must_use]
    pub fn with_flow_seed(self, flow_seed: u64) -> Self {
        Self { flow_seed, ..self }
    }

    /// The same maps, with these tunnels of nodes: addresses, and ports.
    #[must_use]
    pub fn with_tunnels(self, known: BTreeMap<Addr, Known>, tunnel_ports: BTreeSet<u16>) -> Self {
        Self { known, tunnel_ports, ..self }
    }

    /// The same maps, with this device that leads to the pods of other nodes, of both families, which have these addresses.
    #[must_use]
    pub fn with_overlay(self, overlay: Overlay, overlay_prefixes: BTreeSet<PrefixKey>) -> Self {
        Self { overlay: Some(overlay), overlay_prefixes, ..self }
    }

    /// The content that operations write.
    pub fn map_state(&self) -> &MapState {
        &self.map_state
    }

    /// Performs one operation.
    pub fn apply(&mut self, op: &MapOp) {
        apply(op, &mut self.map_state);
        match op {
            MapOp::BumpEpoch => self.epoch.set(self.epoch.get().wrapping_add(1)),
            MapOp::RemoveEndpoint(ifindex) => {
                self.epoch.set(self.epoch.get().wrapping_add(1));
                self.flows.get_mut().retain(|key, _| key.ifindex != *ifindex);
                self.fragments.get_mut().retain(|key, _| key.ifindex != *ifindex);
                self.flow_handles.get_mut().retain(|_, key| key.ifindex != *ifindex);
                self.backends.get_mut().retain(|key, _| key.ifindex != *ifindex);
            }
            MapOp::SetEndpoint(..)
            | MapOp::AddAddress(_)
            | MapOp::RemoveAddress(_)
            | MapOp::SetIdentity(..)
            | MapOp::RemoveIdentity(_)
            | MapOp::SetPrefix(..)
            | MapOp::RemovePrefix(_)
            | MapOp::SetAllow(..)
            | MapOp::RemoveAllow(_)
            | MapOp::AddDefer(_)
            | MapOp::RemoveDefer(_)
            | MapOp::AddNode(_)
            | MapOp::RemoveNode(_)
            | MapOp::SetNodeBackend(..)
            | MapOp::RemoveNodeBackend(_)
            | MapOp::SetEgressMark(..)
            | MapOp::RemoveEgressMark(_) => {}
        }
    }

    /// Removes all connections and fragments.
    pub fn clear_flows(&self) {
        self.flows.borrow_mut().clear();
        self.fragments.borrow_mut().clear();
        self.flow_handles.borrow_mut().clear();
        self.backends.borrow_mut().clear();
    }

    /// All connections.
    pub fn flows(&self) -> BTreeMap<FlowKey, FlowValue> {
        self.flows.borrow().iter().map(|(key, entry)| (*key, entry.flow)).collect()
    }

    /// The connections that each rule has decided.
    pub fn rule_counts(&self) -> BTreeMap<RuleId, u64> {
        self.rule_counts.borrow().clone()
    }

    /// All fragmented datagrams.
    pub fn fragments(&self) -> BTreeMap<FragmentSlot, FragmentEntry> {
        self.fragments.borrow().clone()
    }

    /// Judges a frame.
    pub fn judge(&self, frame: &(impl Frame + ?Sized), seen: &HookContext) -> Observation {
        let mut packet = Packet::EMPTY;
        let outcome = decide(self, frame, || *seen, &mut packet);
        if packet == Packet::EMPTY {
            // The verdict needed no headers.
            frame.parse(&mut packet);
        }
        Observation { outcome, packet }
    }
}

impl TunnelMaps for MemoryMaps {
    fn known(&self, addr: &Addr) -> Known {
        self.known.get(addr).copied().unwrap_or(Known::NOBODY)
    }

    fn is_tunnel_port(&self, port: PortBe) -> bool {
        self.tunnel_ports.contains(&port.get())
    }
}

impl PolicyMaps for MemoryMaps {
    fn endpoint(&self, ifindex: IfIndex) -> Option<(EndpointValue, AllowSlots, Mac)> {
        let endpoint = self.map_state.endpoints.get(&ifindex)?;
        Some((endpoint.value, AllowSlots(ifindex.0), endpoint.mac))
    }

    fn mac(&self, ifindex: IfIndex) -> Option<Mac> {
        Some(self.map_state.endpoints.get(&ifindex)?.mac)
    }

    fn owns_address(&self, key: &AddressKey) -> bool {
        self.map_state.addresses.contains(key)
    }

    fn owner(&self, addr: &Addr) -> Option<IfIndex> {
        if addr.is_v6_link_local() {
            return None;
        }
        let mut owners = self.map_state.addresses.iter().filter(|key| key.addr == *addr);
        let owner = owners.next()?.ifindex;
        Some(if owners.next().is_some() { AddressKey::ANY_POD } else { owner })
    }

    fn overlay(&self, _family: u32) -> Overlay {
        self.overlay.unwrap_or(Overlay::NONE)
    }

    fn is_behind_overlay(&self, addr: &Addr) -> bool {
        prefixes_of(*addr).any(|prefix| self.overlay_prefixes.contains(&prefix))
    }

    fn identity(&self, addr: &Addr) -> Identity {
        identity_of(&self.map_state, *addr)
    }

    fn allow(
        &self,
        places: AllowSlots,
        direction: Direction,
        identity: Identity,
        protocol: Protocol,
        port: PortBe,
    ) -> Option<AllowValue> {
        let map = self.map_state.allow.get(&AllowMapKey::new(IfIndex(places.0), direction))?;
        let of = |identity| longest_entry(map, &AllowKey::lookup(identity, protocol, port));
        let own = (identity != Identity::NONE).then(|| of(identity)).flatten();
        own.or_else(|| of(Identity::ANY))
    }

    fn current_flow(&self, key: &FlowKey, sender: Option<&Addr>, step: &Step) -> CurrentFlow {
        let flows = self.flows.borrow();
        let Some(FlowEntry { flow, local }) = flows.get(key) else { return CurrentFlow::Absent };
        let is_own = sender.is_none_or(|sender| sender == local);
        if is_own && is_current(flow, key.protocol, step) {
            CurrentFlow::of(flow)
        } else {
            CurrentFlow::No
        }
    }

    fn flow(&self, key: &FlowKey, sender: &Addr, flow: &mut FlowValue) -> Option<bool> {
        let flows = self.flows.borrow();
        let found = flows.get(key)?;
        *flow = found.flow;
        Some(found.local == *sender)
    }

    fn set_flow(&self, key: &FlowKey, flow: &FlowValue, local: Local<'_>) {
        let mut flows = self.flows.borrow_mut();
        let local = match (local, flows.get(key)) {
            (Local::Kept, None) => return,
            (Local::Kept, Some(entry)) => entry.local,
            (Local::Unknown, _) => Addr::UNSPECIFIED,
            (Local::At(addr), _) => *addr,
        };
        flows.insert(*key, FlowEntry { flow: *flow, local });
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        let fragments = self.fragments.borrow();
        fragments.get(&key.slot(self.flow_seed))?.value_of(key).copied()
    }

    fn set_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        let entry = FragmentEntry::new(key, value);
        self.fragments.borrow_mut().insert(key.slot(self.flow_seed), entry);
    }

    fn is_deferred(&self, addr: &Addr) -> bool {
        self.map_state.defer.contains(addr)
    }

    fn is_own_node(&self, addr: &Addr, protocol: Protocol, port: PortBe) -> bool {
        let own_node = &self.map_state.own_node;
        own_node.contains(&NodeKey::address(*addr))
            && !own_node.contains(&NodeKey::port(protocol, port))
            && !own_node.contains(&NodeKey::port_of(*addr, protocol, port))
    }

    fn node_backend(&self, key: &NodeKey) -> Option<BackendValue> {
        self.map_state.node_backends.get(key).copied()
    }

    fn is_taken(&self, addr: &Addr) -> bool {
        self.is_of_local_pod(addr) || self.known(addr) != Known::NOBODY
    }

    fn is_tunnel(&self, remote: &Addr, protocol: Protocol, port: PortBe) -> bool {
        is_tunnel(self, remote, protocol, port)
    }

    fn egress_mark_owner(&self, egress_mark: u16) -> Option<IfIndex> {
        self.map_state.egress_marks.get(&egress_mark).copied()
    }

    fn store_deferred_flow(&self, key: &FlowKey) -> u16 {
        let mut flow_handles = self.flow_handles.borrow_mut();
        let free = (1..u16::MAX).find(|flow_handle| !flow_handles.contains_key(flow_handle));
        if let Some(flow_handle) = free {
            flow_handles.insert(flow_handle, *key);
        }
        free.unwrap_or(0)
    }

    fn take_deferred_flow(&self, flow_handle: u16) -> Option<FlowKey> {
        self.flow_handles.borrow_mut().remove(&flow_handle)
    }

    fn backend(&self, key: &FlowKey) -> Option<BackendValue> {
        self.backends.borrow().get(key).copied()
    }

    fn set_backend(&self, key: &FlowKey, value: &BackendValue) {
        self.backends.borrow_mut().insert(*key, *value);
    }

    fn count_rule(&self, rule: RuleId) {
        *self.rule_counts.borrow_mut().entry(rule).or_default() += 1;
    }

    fn epoch(&self) -> Epoch {
        Epoch(self.epoch.get())
    }
}

/// The identity of an address: its own, else that of the longest prefix that contains it.
pub(crate) fn identity_of(map_state: &MapState, addr: Addr) -> Identity {
    let own = map_state.identities.get(&addr).copied();
    let longest = || prefixes_of(addr).find_map(|prefix| map_state.prefixes.get(&prefix).copied());
    own.or_else(longest).unwrap_or(Identity::NONE)
}

/// The prefixes that contain an address, the longest one first.
fn prefixes_of(addr: Addr) -> impl Iterator<Item = PrefixKey> {
    (0..=128).rev().map(move |prefix_len_bits| PrefixKey::containing(addr, prefix_len_bits))
}
