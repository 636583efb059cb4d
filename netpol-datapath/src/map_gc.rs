//! What the packets of endpoints have left in the maps, and its end when the endpoints are gone.
//!
//! In: interfaces that are no endpoints any more. Out: maps without an entry of theirs. To find these entries is to read all
//! maps, some ten milliseconds when they are full. So that is done for all interfaces together, and beside the event loop
//! ([`MapGc::run`]). What holds meanwhile: an entry that is left lets no packet pass, because the epoch is bumped when an
//! endpoint ends and what is of another epoch asks for the endpoint; and an interface that becomes an endpoint again has no
//! entry of before, because it is waited for ([`Leftovers::claim`]). Must not: touch what is left by endpoints.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{IterableMap as _, Map, MapData, MapError, PerCpuHashMap};
use netpol_common::ids::IfIndex;
use netpol_common::keys::{
    BackendValue, CounterKey, CounterValue, FlowKey, FragmentKey, FragmentValue,
};

use super::Datapath;
use super::error::Error;
use super::flows::FlowTable;
use super::maps::Maps;
use super::table::{Label, Plain, Table, absent_is_fine, again};
use super::wire::{self, Wire};

/// Interfaces whose entries are to go.
#[derive(Debug)]
enum Whose {
    These(BTreeSet<IfIndex>),
    AllBut(BTreeSet<IfIndex>),
}

impl Whose {
    fn contains(&self, ifindex: IfIndex) -> bool {
        match self {
            Self::These(gone) => gone.contains(&ifindex),
            Self::AllBut(endpoints) => !endpoints.contains(&ifindex),
        }
    }
}

/// Interfaces that are no endpoints any more, and whose entries may still be there.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    gone: BTreeSet<IfIndex>,
    /// Those of a garbage collection that is under way.
    under_way: Option<Arc<Mutex<Whose>>>,
}

impl Leftovers {
    /// These interfaces are no endpoints any more.
    pub(super) fn extend(&mut self, gone: impl IntoIterator<Item = IfIndex>) {
        self.gone.extend(gone);
    }

    fn collected(&self) -> Option<MutexGuard<'_, Whose>> {
        self.under_way.as_deref().map(lock)
    }

    /// How many there are.
    fn len(&self) -> usize {
        let n_under_way = self.collected().map_or(0, |whose| match &*whose {
            Whose::These(gone) => gone.len(),
            Whose::AllBut(_) => 0,
        });
        self.gone.len() + n_under_way
    }

    fn contains(&self, ifindex: IfIndex) -> bool {
        self.gone.contains(&ifindex)
            || self.collected().is_some_and(|whose| whose.contains(ifindex))
    }

    /// Takes all of them; a garbage collection that is under way finds nothing more to do.
    fn take(&mut self) -> BTreeSet<IfIndex> {
        let mut all = std::mem::take(&mut self.gone);
        if let Some(mut whose) = self.collected()
            && let Whose::These(gone) = &mut *whose
        {
            all.append(gone);
        }
        self.under_way = None;
        all
    }
}

fn lock(whose: &Mutex<Whose>) -> MutexGuard<'_, Whose> {
    whose.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ways of their own to the maps that packets fill.
struct Littered {
    flows: FlowTable,
    fragments: (Label, MapData),
    flow_handles: (Label, MapData),
    backends: (Label, MapData),
    counters: (Label, PerCpuHashMap<MapData, Wire<CounterKey>, Wire<CounterValue>>),
}

impl Littered {
    fn open(maps: &Maps) -> Result<Self, Error> {
        fn own<K: Plain, V: Plain>(table: &Table<K, V>) -> Result<(Label, MapData), Error> {
            let label = table.label();
            Ok((label, again(table.map()).map_err(|error| label.cannot_read(error))?))
        }
        let label = maps.counters_label();
        let counters =
            again(maps.counters.map()).and_then(|own| Map::PerCpuHashMap(own).try_into());
        Ok(Self {
            flows: maps.flows.again()?,
            fragments: own(&maps.fragments)?,
            flow_handles: own(&maps.flow_handles)?,
            backends: own(&maps.backends)?,
            counters: (label, counters.map_err(|error| label.cannot_read(error))?),
        })
    }

    /// Removes the entries of these interfaces; returns how many there were. Whose they are can change meanwhile: it is asked
    /// whenever some are removed, and stays as it is until they are.
    fn map_gc(&mut self, whose: &Mutex<Whose>) -> Result<usize, Error> {
        let Self { flows, fragments, flow_handles, backends, counters } = self;
        let flows = flows.memory()?;
        let mut n_removed = {
            let whose = lock(whose);
            flows.remove(|ifindex| whose.contains(ifindex))
        };
        n_removed += map_gc(fragments, whose, |key: &FragmentKey, _: &FragmentValue| key.ifindex)?;
        n_removed += map_gc(flow_handles, whose, |_: &u32, key: &FlowKey| key.ifindex)?;
        n_removed += map_gc(backends, whose, |key: &FlowKey, _: &BackendValue| key.ifindex)?;
        let (label, counters) = counters;
        let keys: Result<Vec<_>, MapError> = counters.keys().collect();
        let keys = keys.map_err(|error| label.cannot_read(error))?;
        let whose = lock(whose);
        for key in keys.into_iter().filter(|Wire(key)| whose.contains(key.ifindex)) {
            let removed = absent_is_fine(counters.remove(&key));
            removed.map_err(|error| label.cannot_write(error))?;
            n_removed += 1;
        }
        Ok(n_removed)
    }
}

fn map_gc<K: Plain, V: Plain>(
    (label, map): &(Label, MapData),
    whose: &Mutex<Whose>,
    ifindex: impl Fn(&K, &V) -> IfIndex,
) -> Result<usize, Error> {
    let mut n_removed = 0;
    let collected = wire::for_each_batch(map, |keys: &[K], values: &[V]| {
        let whose = lock(whose);
        let entries = keys.iter().zip(values);
        let gone = entries.filter(|(key, value)| whose.contains(ifindex(key, value)));
        let gone: Vec<K> = gone.map(|(key, _)| *key).collect();
        n_removed += gone.len();
        wire::delete_present::<K, V>(map, &gone)
    });
    collected.map_err(|error| label.cannot_write(error))?;
    Ok(n_removed)
}

/// The removal of what endpoints that are gone have left.
pub struct MapGc {
    maps: Littered,
    whose: Arc<Mutex<Whose>>,
    outcome: Result<usize, Error>,
}

impl MapGc {
    /// Does what takes time.
    #[must_use]
    pub fn run(mut self) -> Self {
        self.outcome = self.maps.map_gc(&self.whose);
        self
    }
}

impl Maps {
    /// Sees to it that there is nothing left of what these interfaces were before: at once, if it is not done by now.
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

    /// Removes all that endpoints that are gone have left.
    ///
    /// # Errors
    /// [`Error::Map`].
    fn collect_now(&mut self) -> Result<usize, Error> {
        // One reading for all of them.
        let whose = Mutex::new(Whose::These(self.leftovers.take()));
        let collected = Littered::open(self).and_then(|mut maps| maps.map_gc(&whose));
        if collected.is_err()
            && let Whose::These(gone) = whose.into_inner().unwrap_or_else(PoisonError::into_inner)
        {
            self.leftovers.extend(gone);
        }
        collected
    }
}

impl Datapath {
    /// How many interfaces are no endpoints any more and may still have entries.
    pub fn n_awaiting_gc(&self) -> usize {
        self.maps.leftovers.len()
    }

    /// The removal of what endpoints that are gone have left, if there are any. One at a time.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn begin_gc(&mut self) -> Result<Option<MapGc>, Error> {
        if self.maps.leftovers.gone.is_empty() || self.maps.leftovers.under_way.is_some() {
            return Ok(None);
        }
        let maps = Littered::open(&self.maps)?;
        let gone = std::mem::take(&mut self.maps.leftovers.gone);
        let whose = Arc::new(Mutex::new(Whose::These(gone)));
        self.maps.leftovers.under_way = Some(Arc::clone(&whose));
        Ok(Some(MapGc { maps, whose, outcome: Ok(0) }))
    }

    /// Finishes a garbage collection that has been [run](Sweep::run). Returns how many entries were removed.
    ///
    /// # Errors
    /// What went wrong: the rest is for the next garbage collection.
    pub fn end_gc(&mut self, map_gc: MapGc) -> Result<usize, Error> {
        let MapGc { maps: _, whose, outcome } = map_gc;
        let leftovers = &mut self.maps.leftovers;
        if leftovers.under_way.as_ref().is_some_and(|under_way| Arc::ptr_eq(under_way, &whose)) {
            leftovers.under_way = None;
        }
        if outcome.is_err()
            && let Whose::These(gone) = &mut *lock(&whose)
        {
            leftovers.gone.append(gone);
        }
        outcome
    }

    /// Removes at once what endpoints that are gone have left. Returns how many entries there were.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn map_gc(&mut self) -> Result<usize, Error> {
        self.maps.collect_now()
    }

    /// Removes at once what is left of interfaces that are no endpoints, whoever knew of them. Returns how many entries there
    /// were.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn collect_unknown(&mut self) -> Result<usize, Error> {
        let endpoints = self.maps.endpoints.entries()?.into_iter();
        let whose = Mutex::new(Whose::AllBut(endpoints.map(|(ifindex, _)| ifindex).collect()));
        Littered::open(&self.maps)?.map_gc(&whose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_from_a_collection_under_way_is_none_of_its_business_any_more() {
        let whose = Arc::new(Mutex::new(Whose::These(BTreeSet::from([IfIndex(7), IfIndex(8)]))));
        let mut leftovers = Leftovers::default();
        leftovers.extend([IfIndex(9)]);
        leftovers.under_way = Some(Arc::clone(&whose));
        assert_eq!(leftovers.len(), 3);
        assert!(leftovers.contains(IfIndex(8)) && leftovers.contains(IfIndex(9)));
        assert_eq!(leftovers.take(), [7, 8, 9].map(IfIndex).into());
        assert!(!lock(&whose).contains(IfIndex(7)));
        assert_eq!(leftovers.len(), 0);
    }
}
