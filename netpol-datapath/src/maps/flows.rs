//! The connections that the programs track, and the garbage collection of what removed endpoints left in the maps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use netpol_common::ids::{Direction, Epoch, IfIndex, Nanos, Protocol, RuleId};
use netpol_common::keys::{FlowKey, FlowValue};
use netpol_policy::dataplane::port::Flows;

use super::gc::{MapGc, PacketMaps};
use crate::datapath::Datapath;
use crate::error::Error;
use crate::tables::wire::Wire;
use crate::tables::{Labelled, Targets, absent_is_fine, lock};

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

    fn rule_counts(&self) -> Result<BTreeMap<RuleId, u64>, Error> {
        self.maps.read_rule_counts()
    }

    fn remove_rule_counts(&mut self, rules: &[RuleId]) -> Result<(), Error> {
        let Labelled { label, map } = &mut self.maps.rule_counts;
        for rule in rules {
            let removed = absent_is_fine(map.remove(&Wire(*rule)));
            removed.map_err(|error| label.cannot_write(error))?;
        }
        Ok(())
    }

    fn add_flows(&mut self, flows: &[(FlowKey, FlowValue)]) -> Result<(), Error> {
        self.maps.claim(flows.iter().map(|(key, _)| key.ifindex))?;
        self.maps.flows.add(&mut self.ebpf, flows)
    }

    /// # Errors
    /// [`Error::Map`], and those of [`Flows::add_flows`].
    fn correct_flows(
        &mut self,
        ifindex: IfIndex,
        since: Nanos,
        flows: &[(FlowKey, FlowValue)],
        udp_ports: &BTreeMap<u16, Direction>,
    ) -> Result<usize, Error> {
        let origins: BTreeMap<&FlowKey, u8> =
            flows.iter().map(|(key, flow)| (key, flow.origin)).collect();
        let origin = |key: &FlowKey, found: &FlowValue| {
            let of_port = || {
                let is_udp = key.protocol == Protocol::UDP && key.stage == FlowKey::AT_POD;
                let direction = udp_ports.get(&key.local_port.get())?;
                (is_udp && found.last_seen >= since).then(|| direction.to_wire())
            };
            origins.get(key).copied().or_else(of_port).unwrap_or(found.origin)
        };
        // Epoch 0 is never the current one, so the next packet is judged.
        let anew = |value: FlowValue, origin| FlowValue {
            origin,
            epoch: Epoch(0),
            marks: FlowValue::REVOKED,
            ..value
        };
        let mut wrong = self.flows()?;
        wrong.retain(|key, found| key.ifindex == ifindex && origin(key, found) != found.origin);
        let corrected = wrong.iter().map(|(key, found)| (*key, anew(*found, origin(key, found))));
        let present = flows.iter().map(|(key, flow)| (*key, anew(*flow, flow.origin)));
        let all: Vec<_> = corrected.chain(present).collect();
        self.add_flows(&all)?;
        Ok(wrong.len())
    }

    fn n_awaiting_gc(&self) -> usize {
        self.maps.leftovers.len()
    }

    fn begin_gc(&mut self) -> Result<Option<MapGc>, Error> {
        if self.maps.leftovers.gone.is_empty() || self.maps.leftovers.in_progress.is_some() {
            return Ok(None);
        }
        let maps = PacketMaps::open(&self.maps)?;
        let gone = std::mem::take(&mut self.maps.leftovers.gone);
        let targets = Arc::new(Mutex::new(Targets::These(gone)));
        self.maps.leftovers.in_progress = Some(Arc::clone(&targets));
        Ok(Some(MapGc { maps, targets, outcome: Ok(0) }))
    }

    fn run_gc(map_gc: MapGc) -> MapGc {
        map_gc.run()
    }

    fn end_gc(&mut self, map_gc: MapGc) -> Result<usize, Error> {
        let MapGc { maps: _, targets, outcome } = map_gc;
        let leftovers = &mut self.maps.leftovers;
        if leftovers
            .in_progress
            .as_ref()
            .is_some_and(|in_progress| Arc::ptr_eq(in_progress, &targets))
        {
            leftovers.in_progress = None;
        }
        if outcome.is_err()
            && let Targets::These(gone) = &mut *lock(&targets)
        {
            leftovers.gone.append(gone);
        }
        outcome
    }
}

impl Datapath {
    /// The number of connections of an endpoint as the programs count them, expired ones included.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn n_counted_flows(&self, owner: IfIndex) -> Result<u64, Error> {
        Ok(self.maps.flows.memory()?.n_counted(owner))
    }

    /// Removes all connections.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn forget_flows(&mut self) -> Result<(), Error> {
        self.maps.flows.memory()?.remove(|_ifindex| true);
        Ok(())
    }
}
