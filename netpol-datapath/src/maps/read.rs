//! The content of the maps.

use std::collections::BTreeMap;
use std::sync::Arc;

use aya::maps::MapError;
use netpol_common::ids::{IfIndex, RuleId};
use netpol_common::keys::{
    BackendValue, CounterKey, Endpoint, EndpointEntry, FlowKey, FragmentEntry, FragmentSlot,
};
use netpol_common::mac::Mac;
use netpol_policy::dataplane::{Counter, EndpointMapState, MapState};

use crate::datapath::Datapath;
use crate::error::Error;
use crate::tables::wire::Wire;
use crate::tables::{Labelled, MapSet};

impl MapSet {
    /// The content of the maps that hold the policy.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(super) fn read_state(&self) -> Result<MapState, Error> {
        Ok(MapState {
            endpoints: self.read_endpoints()?,
            addresses: self.addresses.entries()?.collect(),
            identities: self.identities.entries().collect(),
            prefixes: self.prefixes.entries()?.into_iter().collect(),
            allow: self.allow.entries(),
            defer: self.defer.entries()?.into_iter().map(|(addr, _)| addr).collect(),
            own_node: self.own_node.entries()?.into_iter().map(|(key, _)| key).collect(),
            node_backends: self
                .node_backends
                .entries()?
                .into_iter()
                .map(|(key, entry)| (key, entry.value))
                .collect(),
            egress_marks: self.read_egress_marks()?,
        })
    }

    /// Packets and bytes of drops and would-be drops, summed over the CPUs.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(super) fn read_counters(&self) -> Result<BTreeMap<CounterKey, Counter>, Error> {
        let Labelled { label, map } = &self.counters;
        let entries = map.iter().map(|entry| {
            let (Wire(key), of_cpus) = entry?;
            let sum = of_cpus.iter().fold(Counter::default(), |sum, Wire(of_cpu)| Counter {
                packets: sum.packets + of_cpu.packets,
                bytes: sum.bytes + of_cpu.bytes,
            });
            Ok((key, sum))
        });
        let counters: Result<_, MapError> = entries.collect();
        counters.map_err(|error| label.cannot_read(error))
    }

    /// The connections that each rule has decided, summed over the CPUs.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub(super) fn read_rule_counts(&self) -> Result<BTreeMap<RuleId, u64>, Error> {
        let Labelled { label, map } = &self.rule_counts;
        let entries = map.iter().map(|entry| {
            let (Wire(rule), of_cpus) = entry?;
            Ok((rule, of_cpus.iter().sum()))
        });
        let counts: Result<_, MapError> = entries.collect();
        counts.map_err(|error| label.cannot_read(error))
    }

    fn read_egress_marks(&self) -> Result<BTreeMap<u16, IfIndex>, Error> {
        let Labelled { label, map } = &self.egress_marks;
        let bound = (0_u16..).zip(map.iter()).filter_map(|(egress_mark, owner)| match owner {
            Ok(Wire(IfIndex(0))) => None,
            Ok(Wire(owner)) => Some(Ok((egress_mark, owner))),
            Err(error) => Some(Err(label.cannot_read(error))),
        });
        bound.collect()
    }

    fn read_endpoints(&self) -> Result<BTreeMap<IfIndex, EndpointMapState>, Error> {
        let mut endpoints = BTreeMap::new();
        for (ifindex, EndpointEntry { value: endpoint, .. }) in self.endpoints.entries()? {
            let Endpoint { value, allow_maps: _, mac, pad: _ } = endpoint;
            let padded = self.containers.get(ifindex)?.unwrap_or([0; 128]);
            let container_id = String::from_utf8_lossy(&padded);
            let container_id = Arc::from(container_id.trim_end_matches('\0'));
            let mac = Mac::new(mac);
            endpoints.insert(ifindex, EndpointMapState { value, container_id, mac });
        }
        Ok(endpoints)
    }
}

impl Datapath {
    /// The fragmented datagrams whose first fragment has been judged.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn fragments(&self) -> Result<BTreeMap<FragmentSlot, FragmentEntry>, Error> {
        Ok(self.maps.fragments.entries()?.into_iter().collect())
    }

    /// The seed of the hash of FLOWS and FRAGMENTS.
    pub fn flow_seed(&self) -> u64 {
        self.geometry.seed
    }

    /// The backends that connections to Services were translated to.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn backends(&self) -> Result<BTreeMap<FlowKey, BackendValue>, Error> {
        let entries = self.maps.backends.entries()?.into_iter();
        Ok(entries.map(|(key, entry)| (key, entry.value)).collect())
    }

    /// Connections whose deferred verdict is not finished yet.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn flow_handles(&self) -> Result<Vec<FlowKey>, Error> {
        Ok(self.maps.flow_handles.entries()?.into_iter().map(|(_, key)| key).collect())
    }

    /// Number of allow maps in the kernel. Endpoints with equal allow maps share one.
    pub fn n_allow_maps(&self) -> usize {
        self.maps.allow.n_distinct()
    }
}
