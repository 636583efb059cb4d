//! Typed access to the maps, one module for each kind.
//!
//! In: keys and values of netpol-common. Out: entries that are written or read, or an error that names the map. Must not:
//! know map operations, endpoints' life cycles, or attachments.

mod addresses;
mod allow;
mod flow_table;
mod identities;
mod leftovers;
mod table;
pub(crate) mod wire;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuHashMap};
use netpol_common::addr::Addr;
use netpol_common::ids::{Epoch, Identity, IfIndex, RuleId};
use netpol_common::keys::{
    BackendEntry, CounterKey, CounterValue, EndpointEntry, EndpointSlot, FlowKey, FragmentEntry,
    FragmentSlot, Known, NodeBackendEntry, NodeKey, Overlay,
};
use netpol_common::mac::MacSlot;
use netpol_common::maps;

use self::addresses::Addresses;
use self::allow::AllowMaps;
use self::flow_table::take_array;
use self::identities::Identities;
use self::table::Trie;
use self::wire::Wire;
use crate::error::Error;
use crate::object::layout::{ContainerId, NO_PREALLOC};
use crate::object::{Layout, Pins};

pub(crate) use self::flow_table::{FlowTable, Seed};
pub(crate) use self::leftovers::{Leftovers, Targets, lock};
pub(crate) use self::table::{Label, Labelled, Plain, Table, absent_is_fine, len_bytes, reopen};

/// All maps of this build.
pub(crate) struct MapSet {
    pub(crate) endpoints: Table<IfIndex, EndpointEntry>,
    pub(crate) endpoint_slots: Labelled<Array<MapData, Wire<EndpointSlot>>>,
    pub(crate) addresses: Addresses,
    pub(crate) identities: Identities,
    pub(crate) prefixes: Trie<Identity>,
    pub(crate) allow: AllowMaps,
    pub(crate) flows: FlowTable,
    pub(crate) flow_locks: MapData,
    pub(crate) flow_seed: Seed,
    pub(crate) evictions: Labelled<PerCpuArray<MapData, u64>>,
    pub(crate) fragments: Table<FragmentSlot, FragmentEntry>,
    pub(crate) flow_handles: Table<u32, FlowKey>,
    pub(crate) backends: Table<FlowKey, BackendEntry>,
    pub(crate) defer: Table<Addr, u8>,
    pub(crate) own_node: Table<NodeKey, u8>,
    pub(crate) node_backends: Table<NodeKey, NodeBackendEntry>,
    pub(crate) known: Table<Addr, Known>,
    pub(crate) tunnel_ports: Labelled<Array<MapData, u64>>,
    pub(crate) overlay: Labelled<Array<MapData, Wire<Overlay>>>,
    pub(crate) overlay_prefixes: Trie<u8>,
    pub(crate) containers: Table<IfIndex, ContainerId>,
    pub(crate) egress_marks: Labelled<Array<MapData, Wire<IfIndex>>>,
    pub(crate) epoch: Labelled<Array<MapData, Wire<Epoch>>>,
    pub(crate) counters: Labelled<PerCpuHashMap<MapData, Wire<CounterKey>, Wire<CounterValue>>>,
    pub(crate) rule_counts: Labelled<PerCpuHashMap<MapData, Wire<RuleId>, u64>>,
    /// Removed endpoints whose entries are still to be collected.
    pub(crate) leftovers: Leftovers,
}

impl MapSet {
    /// Takes the maps out of the loaded object.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Map`], [`Error::Pin`].
    pub(crate) fn take(
        ebpf: &mut Ebpf,
        pins: Option<&Pins>,
        layouts: &[Layout],
        flow_seed: Seed,
    ) -> Result<Self, Error> {
        let label = |name| Label::of(layouts, name);
        let endpoints: Table<IfIndex, EndpointEntry> = Table::take(ebpf, label(maps::ENDPOINTS)?)?;
        Ok(Self {
            allow: AllowMaps::take(ebpf, label(maps::ALLOW)?, &endpoints.entries()?)?,
            endpoints,
            endpoint_slots: Labelled::take(ebpf, label(maps::ENDPOINT_SLOTS)?)?,
            addresses: Addresses::take(ebpf, label(maps::ADDRESSES)?)?,
            identities: Identities::take(ebpf, label(maps::IDENTITIES)?)?,
            prefixes: Trie::take(ebpf, label(maps::PREFIXES)?)?,
            flows: FlowTable::take(ebpf, label(maps::FLOWS)?, label(maps::FLOW_COUNTS)?)?,
            flow_locks: take_array(ebpf, maps::FLOW_LOCKS)?,
            flow_seed,
            evictions: Labelled::take(ebpf, label(maps::EVICTIONS)?)?,
            fragments: Table::take(ebpf, label(maps::FRAGMENTS)?)?,
            flow_handles: Table::take(ebpf, label(maps::DEFERRED_FLOWS)?)?,
            backends: Table::take(ebpf, label(maps::BACKENDS)?)?,
            defer: Table::take(ebpf, label(maps::DEFER)?)?,
            own_node: Table::take(ebpf, label(maps::OWN_NODE)?)?,
            node_backends: Table::take(ebpf, label(maps::NODE_BACKENDS)?)?,
            known: Table::take(ebpf, label(maps::KNOWN)?)?,
            tunnel_ports: Labelled::take(ebpf, label(maps::TUNNEL_PORTS)?)?,
            overlay: Labelled::take(ebpf, label(maps::OVERLAY)?)?,
            overlay_prefixes: Trie::take(ebpf, label(maps::OVERLAY_PREFIXES)?)?,
            containers: containers(pins, label(maps::CONTAINERS)?)?,
            egress_marks: Labelled::take(ebpf, label(maps::EGRESS_MARKS)?)?,
            epoch: Labelled::take(ebpf, label(maps::EPOCH)?)?,
            counters: Labelled::take(ebpf, label(maps::COUNTERS)?)?,
            rule_counts: Labelled::take(ebpf, label(maps::RULE_COUNTS)?)?,
            leftovers: Leftovers::default(),
        })
    }

    /// Frees the element of `ENDPOINT_SLOTS` for an interface, unless it is that of another one.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn free_endpoint_slot(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        let Labelled { label, map } = &self.endpoint_slots;
        let found = map.get(&MacSlot::index(ifindex), 0).map(|Wire(slot)| slot);
        let slot = found.map_err(|error| label.cannot_read(error))?;
        if slot.is_of(ifindex) {
            self.set_endpoint_slot(ifindex, EndpointSlot::FREE)
        } else {
            Ok(())
        }
    }

    /// Writes the element of `ENDPOINT_SLOTS` for an interface.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn set_endpoint_slot(
        &mut self,
        ifindex: IfIndex,
        slot: EndpointSlot,
    ) -> Result<(), Error> {
        let Labelled { label, map } = &mut self.endpoint_slots;
        let written = map.set(MacSlot::index(ifindex), Wire(slot), 0);
        written.map_err(|error| label.cannot_write(error))
    }

    /// Binds an egress mark to an interface, or unbinds it with `IfIndex(0)`.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn set_egress_mark(
        &mut self,
        egress_mark: u16,
        owner: IfIndex,
    ) -> Result<(), Error> {
        let Labelled { label, map } = &mut self.egress_marks;
        let written = map.set(u32::from(egress_mark), Wire(owner), 0);
        written.map_err(|error| label.cannot_write(error))
    }

    /// The policy generation.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn epoch(&self) -> Result<Epoch, Error> {
        let Labelled { label, map } = &self.epoch;
        let found = map.get(&0, 0).map(|Wire(epoch)| epoch);
        found.map_err(|error| label.cannot_read(error))
    }

    /// Increments the policy generation, so that every flow is decided again.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(crate) fn bump_epoch(&mut self) -> Result<(), Error> {
        let next = Epoch(self.epoch()?.0.wrapping_add(1));
        let Labelled { label, map } = &mut self.epoch;
        map.set(0, Wire(next), 0).map_err(|error| label.cannot_write(error))
    }
}

/// Opens or creates CONTAINERS, which is not in the object because no program reads it.
fn containers(pins: Option<&Pins>, label: Label) -> Result<Table<IfIndex, ContainerId>, Error> {
    type Containers = HashMap<MapData, Wire<IfIndex>, Wire<ContainerId>>;
    let create = || Containers::create(label.capacity, NO_PREALLOC);
    let map = match pins {
        None => create().map_err(|error| label.cannot_write(error))?,
        Some(pins) => pins.open_map(label.name, create)?,
    };
    Ok(Table::new(label, map))
}
