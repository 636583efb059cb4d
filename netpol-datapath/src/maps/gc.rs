//! Garbage collection of the map entries that packets created for endpoints that have been removed.
//!
//! In: removed endpoints ([`Leftovers`](crate::tables::Leftovers)). Out: maps without entries of theirs. Finding these entries
//! means reading all maps, which takes some ten milliseconds when they are full. So one collection serves all removed endpoints,
//! on a worker thread ([`MapGc::run`]). Until then an entry that is left lets no packet pass: removing an endpoint bumps the
//! epoch, and a flow of an older epoch is decided again by the endpoint's entry. An interface that becomes an endpoint again has
//! no entries from before, because [`MapSet::claim`] collects them first. Must not: remove entries of endpoints.

use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{IterableMap as _, Map, MapData, MapError, PerCpuHashMap};
use netpol_common::ids::IfIndex;
use netpol_common::keys::{
    BackendEntry, CounterKey, CounterValue, FlowKey, FragmentEntry, FragmentSlot,
};

use crate::datapath::Datapath;
use crate::error::Error;
use crate::tables::wire::{self, Wire};
use crate::tables::{
    FlowTable, Label, Labelled, MapSet, Plain, Table, Targets, absent_is_fine, lock, reopen,
};

/// The maps that packets fill, by file descriptors that a worker thread can own.
pub(super) struct PacketMaps {
    flows: FlowTable,
    fragments: (Label, MapData),
    flow_handles: (Label, MapData),
    backends: (Label, MapData),
    counters: (Label, PerCpuHashMap<MapData, Wire<CounterKey>, Wire<CounterValue>>),
}

impl PacketMaps {
    /// Opens the maps by new file descriptors.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(super) fn open(maps: &MapSet) -> Result<Self, Error> {
        fn own<K: Plain, V: Plain>(table: &Table<K, V>) -> Result<(Label, MapData), Error> {
            let label = table.label();
            Ok((label, reopen(table.map()).map_err(|error| label.cannot_read(error))?))
        }
        let Labelled { label, map } = &maps.counters;
        let counters = reopen(map.map()).and_then(|own| Map::PerCpuHashMap(own).try_into());
        Ok(Self {
            flows: maps.flows.reopen()?,
            fragments: own(&maps.fragments)?,
            flow_handles: own(&maps.flow_handles)?,
            backends: own(&maps.backends)?,
            counters: (*label, counters.map_err(|error| label.cannot_read(error))?),
        })
    }

    /// Removes the entries of these interfaces. Returns how many there were. Another thread can change the set meanwhile:
    /// each batch is removed with the lock held.
    fn remove(&mut self, targets: &Mutex<Targets>) -> Result<usize, Error> {
        let Self { flows, fragments, flow_handles, backends, counters } = self;
        let flows = flows.memory()?;
        let mut n_removed = {
            let targets = lock(targets);
            flows.remove(|ifindex| targets.contains(ifindex))
        };
        n_removed +=
            remove(fragments, targets, |slot: &FragmentSlot, _: &FragmentEntry| slot.ifindex)?;
        n_removed += remove(flow_handles, targets, |_: &u32, key: &FlowKey| key.ifindex)?;
        n_removed += remove(backends, targets, |key: &FlowKey, _: &BackendEntry| key.ifindex)?;
        let (label, counters) = counters;
        let keys: Result<Vec<_>, MapError> = counters.keys().collect();
        let keys = keys.map_err(|error| label.cannot_read(error))?;
        let targets = lock(targets);
        for key in keys.into_iter().filter(|Wire(key)| targets.contains(key.ifindex)) {
            let removed = absent_is_fine(counters.remove(&key));
            removed.map_err(|error| label.cannot_write(error))?;
            n_removed += 1;
        }
        Ok(n_removed)
    }
}

/// Removes the entries of one hash map whose interface, as `ifindex` finds it, is a target.
fn remove<K: Plain, V: Plain>(
    (label, map): &(Label, MapData),
    targets: &Mutex<Targets>,
    ifindex: impl Fn(&K, &V) -> IfIndex,
) -> Result<usize, Error> {
    let mut n_removed = 0;
    let collected = wire::for_each_batch(map, |keys: &[K], values: &[V]| {
        let targets = lock(targets);
        let entries = keys.iter().zip(values);
        let gone = entries.filter(|(key, value)| targets.contains(ifindex(key, value)));
        let gone: Vec<K> = gone.map(|(key, _)| *key).collect();
        n_removed += gone.len();
        wire::delete_present::<K, V>(map, &gone)
    });
    collected.map_err(|error| label.cannot_write(error))?;
    Ok(n_removed)
}

/// A garbage collection of the map entries of removed endpoints.
pub struct MapGc {
    pub(super) maps: PacketMaps,
    pub(super) targets: Arc<Mutex<Targets>>,
    pub(super) outcome: Result<usize, Error>,
}

impl MapGc {
    /// The slow part: reads all maps that packets fill. Can run on a worker thread.
    #[must_use]
    pub fn run(mut self) -> Self {
        self.outcome = self.maps.remove(&self.targets);
        self
    }
}

impl MapSet {
    /// Makes sure that the maps hold no entry from earlier endpoints with these interface indexes. Collects now if some are
    /// left.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(super) fn claim(
        &mut self,
        mut ifindexes: impl Iterator<Item = IfIndex>,
    ) -> Result<(), Error> {
        if ifindexes.any(|ifindex| self.leftovers.contains(ifindex)) {
            return self.collect_now().map(drop);
        }
        Ok(())
    }

    /// Removes all entries of removed endpoints. Returns how many there were.
    ///
    /// # Errors
    /// [`Error::Map`].
    fn collect_now(&mut self) -> Result<usize, Error> {
        // All of them, because the maps are read only once.
        let targets = Mutex::new(Targets::These(self.leftovers.take()));
        let removed = PacketMaps::open(self).and_then(|mut maps| maps.remove(&targets));
        if removed.is_err()
            && let Targets::These(gone) =
                targets.into_inner().unwrap_or_else(PoisonError::into_inner)
        {
            self.leftovers.extend(gone);
        }
        removed
    }
}

impl Datapath {
    /// Removes all entries of removed endpoints now. Returns how many there were.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn collect_garbage(&mut self) -> Result<usize, Error> {
        self.maps.collect_now()
    }

    /// Removes all entries of interfaces that are not in ENDPOINTS now, also those that an earlier run of the agent left.
    /// Returns how many there were.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn collect_unknown(&mut self) -> Result<usize, Error> {
        let endpoints = self.maps.endpoints.entries()?.into_iter();
        let targets = Mutex::new(Targets::AllBut(endpoints.map(|(ifindex, _)| ifindex).collect()));
        PacketMaps::open(&self.maps)?.remove(&targets)
    }
}
