//! The connections that the programs track, and the garbage collection of what removed endpoints left in the maps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use netpol_common::keys::{FlowKey, FlowValue};
use netpol_policy::dataplane::port::Flows;

use super::gc::{Collected, MapGc};
use crate::datapath::Datapath;
use crate::error::Error;
use crate::tables::{Labelled, Whose, lock};

impl Flows for Datapath {
    type MapGc = MapGc;

    /// All connections, expired ones included.
    ///
    /// # Errors
    /// [`Error::Map`].
    fn flows(&self) -> Result<BTreeMap<FlowKey, FlowValue>, Error> {
        let entries = self.maps.flows.memory()?.entries().into_iter();
        Ok(entries.map(|(key, entry)| (key, entry.flow)).collect())
    }

    fn n_evicted_flows(&self) -> Result<u64, Error> {
        let Labelled { label, map } = &self.maps.evictions;
        let of_cpus = map.get(&0, 0).map_err(|error| label.cannot_read(error))?;
        Ok(of_cpus.iter().sum())
    }

    fn add_flows(&mut self, flows: &[(FlowKey, FlowValue)]) -> Result<(), Error> {
        self.maps.claim(flows.iter().map(|(key, _)| key.ifindex))?;
        self.maps.flows.add(&mut self.ebpf, flows)
    }

    fn n_awaiting_gc(&self) -> usize {
        self.maps.leftovers.len()
    }

    fn begin_gc(&mut self) -> Result<Option<MapGc>, Error> {
        if self.maps.leftovers.gone.is_empty() || self.maps.leftovers.under_way.is_some() {
            return Ok(None);
        }
        let maps = Collected::open(&self.maps)?;
        let gone = std::mem::take(&mut self.maps.leftovers.gone);
        let whose = Arc::new(Mutex::new(Whose::These(gone)));
        self.maps.leftovers.under_way = Some(Arc::clone(&whose));
        Ok(Some(MapGc { maps, whose, outcome: Ok(0) }))
    }

    fn run_gc(map_gc: MapGc) -> MapGc {
        map_gc.run()
    }

    fn end_gc(&mut self, map_gc: MapGc) -> Result<usize, Error> {
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
}

impl Datapath {
    /// Removes all connections.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn forget_flows(&mut self) -> Result<(), Error> {
        self.maps.flows.memory()?.remove(|_ifindex| true);
        Ok(())
    }
}
