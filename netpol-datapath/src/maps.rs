//! The maps of this build, and what can be read from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap};
use netpol_common::addr::Addr;
use netpol_common::ids::{Epoch, Identity, IfIndex};
use netpol_common::keys::{
    AddressKey, BackendValue, CounterKey, CounterValue, EndpointEntry, FlowKey, FlowValue,
    FragmentKey, FragmentValue,
};
use netpol_common::maps;

use super::Datapath;
use super::allow::AllowMaps;
use super::error::Error;
use super::flows::{FlowTable, Seed, take_array};
use super::identities::Identities;
use super::layout::Layout;
use super::map_gc::Leftovers;
use super::pins::Pins;
use super::table::{Label, Table, Trie, take};
use super::wire::Wire;
use netpol_policy::compile::{EndpointMapState, MapState};
use netpol_policy::dataplane::Counter;

/// `BPF_F_NO_PREALLOC`: memory is taken when an entry is made.
pub(super) const NO_PREALLOC: u32 = 1;

/// A container id, padded with zeros.
pub(super) type ContainerId = [u8; 128];

/// The maps.
pub(super) struct Maps {
    pub(super) endpoints: Table<IfIndex, EndpointEntry>,
    pub(super) addresses: Table<AddressKey, u8>,
    pub(super) identities: Identities,
    pub(super) prefixes: Trie<Identity>,
    pub(super) allow: AllowMaps,
    pub(super) flows: FlowTable,
    pub(super) flow_locks: MapData,
    pub(super) flow_seed: Seed,
    pub(super) evictions: PerCpuArray<MapData, u64>,
    evictions_label: Label,
    pub(super) fragments: Table<FragmentKey, FragmentValue>,
    pub(super) flow_handles: Table<u32, FlowKey>,
    pub(super) backends: Table<FlowKey, BackendValue>,
    pub(super) defer: Table<Addr, u8>,
    pub(super) containers: Table<IfIndex, ContainerId>,
    pub(super) egress_marks: Array<MapData, Wire<IfIndex>>,
    egress_marks_label: Label,
    pub(super) epoch: Array<MapData, Wire<Epoch>>,
    epoch_label: Label,
    pub(super) counters: PerCpuHashMap<MapData, Wire<CounterKey>, Wire<CounterValue>>,
    counters_label: Label,
    pub(super) leftovers: Leftovers,
}

impl Maps {
    /// Takes the maps out of the loaded object.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Map`], [`Error::Pin`].
    pub(super) fn take(
        ebpf: &mut Ebpf,
        pins: Option<&Pins>,
        layouts: &[Layout],
        flow_seed: Seed,
    ) -> Result<Self, Error> {
        let label = |name| Label::of(layouts, name);
        let egress_marks_label = label(maps::EGRESS_MARKS)?;
        let epoch_label = label(maps::EPOCH)?;
        let evictions_label = label(maps::EVICTIONS)?;
        let counters_label = label(maps::COUNTERS)?;
        let endpoints: Table<IfIndex, EndpointEntry> = Table::take(ebpf, label(maps::ENDPOINTS)?)?;
        Ok(Self {
            allow: AllowMaps::take(ebpf, label(maps::ALLOW)?, &endpoints.entries()?)?,
            endpoints,
            addresses: Table::take(ebpf, label(maps::ADDRESSES)?)?,
            identities: Identities::take(ebpf, label(maps::IDENTITIES)?)?,
            prefixes: Trie::take(ebpf, label(maps::PREFIXES)?)?,
            flows: FlowTable::take(ebpf, label(maps::FLOWS)?)?,
            flow_locks: take_array(ebpf, maps::FLOW_LOCKS)?,
            flow_seed,
            evictions: typed(ebpf, evictions_label)?,
            evictions_label,
            fragments: Table::take(ebpf, label(maps::FRAGMENTS)?)?,
            flow_handles: Table::take(ebpf, label(maps::DEFERRED_FLOWS)?)?,
            backends: Table::take(ebpf, label(maps::BACKENDS)?)?,
            defer: Table::take(ebpf, label(maps::DEFER)?)?,
            containers: containers(pins, label(maps::CONTAINERS)?)?,
            egress_marks: typed(ebpf, egress_marks_label)?,
            egress_marks_label,
            epoch: typed(ebpf, epoch_label)?,
            epoch_label,
            counters: typed(ebpf, counters_label)?,
            counters_label,
            leftovers: Leftovers::default(),
        })
    }

    /// Binds an egress mark, or unbinds it with `IfIndex(0)`.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(super) fn set_egress_mark(
        &mut self,
        egress_mark: u16,
        owner: IfIndex,
    ) -> Result<(), Error> {
        let written = self.egress_marks.set(u32::from(egress_mark), Wire(owner), 0);
        written.map_err(|error| self.egress_marks_label.cannot_write(error))
    }

    /// The policy generation.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(super) fn epoch(&self) -> Result<Epoch, Error> {
        let found = self.epoch.get(&0, 0).map(|Wire(epoch)| epoch);
        found.map_err(|error| self.epoch_label.cannot_read(error))
    }

    /// Makes every flow be decided again.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(super) fn bump_epoch(&mut self) -> Result<(), Error> {
        let next = Epoch(self.epoch()?.0.wrapping_add(1));
        let written = self.epoch.set(0, Wire(next), 0);
        written.map_err(|error| self.epoch_label.cannot_write(error))
    }

    pub(super) fn counters_label(&self) -> Label {
        self.counters_label
    }

    fn counters(&self) -> Result<BTreeMap<CounterKey, Counter>, Error> {
        let entries = self.counters.iter().map(|entry| {
            let (Wire(key), of_cpus) = entry?;
            let sum = of_cpus.iter().fold(Counter::default(), |sum, Wire(of_cpu)| Counter {
                packets: sum.packets + of_cpu.packets,
                bytes: sum.bytes + of_cpu.bytes,
            });
            Ok((key, sum))
        });
        let counters: Result<_, MapError> = entries.collect();
        counters.map_err(|error| self.counters_label.cannot_read(error))
    }

    fn egress_marks(&self) -> Result<BTreeMap<u16, IfIndex>, Error> {
        let bound =
            (0_u16..).zip(self.egress_marks.iter()).filter_map(
                |(egress_mark, owner)| match owner {
                    Ok(Wire(IfIndex(0))) => None,
                    Ok(Wire(owner)) => Some(Ok((egress_mark, owner))),
                    Err(error) => Some(Err(self.egress_marks_label.cannot_read(error))),
                },
            );
        bound.collect()
    }

    fn endpoints(&self) -> Result<BTreeMap<IfIndex, EndpointMapState>, Error> {
        let mut endpoints = BTreeMap::new();
        for (ifindex, EndpointEntry { value, .. }) in self.endpoints.entries()? {
            let padded = self.containers.get(ifindex)?.unwrap_or([0; 128]);
            let container_id = String::from_utf8_lossy(&padded);
            let container_id = Arc::from(container_id.trim_end_matches('\0'));
            endpoints.insert(ifindex, EndpointMapState { value, container_id });
        }
        Ok(endpoints)
    }
}

impl Datapath {
    /// What the maps hold.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn map_state(&self) -> Result<MapState, Error> {
        let maps = &self.maps;
        Ok(MapState {
            endpoints: maps.endpoints()?,
            addresses: maps.addresses.entries()?.into_iter().map(|(key, _)| key).collect(),
            identities: maps.identities.entries().collect(),
            prefixes: maps.prefixes.entries()?.into_iter().collect(),
            allow: maps.allow.entries(),
            defer: maps.defer.entries()?.into_iter().map(|(addr, _)| addr).collect(),
            egress_marks: maps.egress_marks()?,
        })
    }

    /// Makes connections known that no program has seen begin; those that are known stay as they are.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn add_flows(&mut self, flows: &[(FlowKey, FlowValue)]) -> Result<(), Error> {
        self.maps.claim(flows.iter().map(|(key, _)| key.ifindex))?;
        self.maps.flows.add(&mut self.ebpf, flows)
    }

    /// Forgets all connections.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn forget_flows(&mut self) -> Result<(), Error> {
        self.maps.flows.memory()?.remove(|_ifindex| true);
        Ok(())
    }

    /// The policy generation.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn epoch(&self) -> Result<Epoch, Error> {
        self.maps.epoch()
    }

    /// Packets and bytes since the endpoint exists, of drops and would-be drops.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn counters(&self) -> Result<BTreeMap<CounterKey, Counter>, Error> {
        self.maps.counters()
    }

    /// The connections, those that have expired included.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn flows(&self) -> Result<BTreeMap<FlowKey, FlowValue>, Error> {
        let entries = self.maps.flows.memory()?.entries().into_iter();
        Ok(entries.map(|(key, entry)| (key, entry.flow)).collect())
    }

    /// Connections that had to make room for others before they had ended, since their table exists.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn n_evicted_flows(&self) -> Result<u64, Error> {
        let of_cpus = self.maps.evictions.get(&0, 0);
        let of_cpus = of_cpus.map_err(|error| self.maps.evictions_label.cannot_read(error))?;
        Ok(of_cpus.iter().sum())
    }

    /// The datagrams in pieces.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn fragments(&self) -> Result<BTreeMap<FragmentKey, FragmentValue>, Error> {
        Ok(self.maps.fragments.entries()?.into_iter().collect())
    }

    /// Where connections to Services really go.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn backends(&self) -> Result<BTreeMap<FlowKey, BackendValue>, Error> {
        Ok(self.maps.backends.entries()?.into_iter().collect())
    }

    /// Connections of deferred packets whose verdict has not been finished.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn flow_handles(&self) -> Result<Vec<FlowKey>, Error> {
        Ok(self.maps.flow_handles.entries()?.into_iter().map(|(_, key)| key).collect())
    }

    /// Does ahead what a change would have to wait for: some ten milliseconds, seldom. For when nothing waits.
    ///
    /// # Errors
    /// [`Error::Map`], [`Error::MapFull`].
    pub fn prepare(&mut self) -> Result<(), Error> {
        self.maps.identities.prepare()?;
        if self.maps.allow.wants_preparation() { self.maps.allow.prepare() } else { Ok(()) }
    }

    /// How many allow maps there are in the kernel: equal ones are one.
    pub fn n_allow_maps(&self) -> usize {
        self.maps.allow.n_distinct()
    }
}

/// Takes a map out of the loaded object as its type.
fn typed<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, label: Label) -> Result<M, Error> {
    take(ebpf, label.name)?.try_into().map_err(|error| label.cannot_read(error))
}

/// The map that the object has not, because no program reads it.
fn containers(pins: Option<&Pins>, label: Label) -> Result<Table<IfIndex, ContainerId>, Error> {
    type Containers = HashMap<MapData, Wire<IfIndex>, Wire<ContainerId>>;
    let create = || Containers::create(label.capacity, NO_PREALLOC);
    let map = match pins {
        None => create().map_err(|error| label.cannot_write(error))?,
        Some(pins) => pins.open_map(label.name, create)?,
    };
    Ok(Table::new(label, map))
}
