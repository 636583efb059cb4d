//! Kernel memory of the maps.

use std::collections::BTreeMap;
use std::io;

use aya::maps::IterableMap as _;
use netpol_common::maps;

use crate::datapath::Datapath;
use crate::error::Error;
use crate::tables::len_bytes;

impl Datapath {
    /// Bytes of kernel memory of each map; for ALLOW and IDENTITIES with the maps in them.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn map_len_bytes(&self) -> Result<BTreeMap<&'static str, u64>, Error> {
        let own = &self.maps;
        let mut lens = BTreeMap::new();
        for (name, map) in [
            (maps::ENDPOINTS, own.endpoints.map()),
            (maps::ENDPOINT_SLOTS, own.endpoint_slots.map.map()),
            (maps::ADDRESSES, own.addresses.map()),
            (maps::PREFIXES, own.prefixes.map()),
            (maps::FLOWS, own.flows.map()),
            (maps::FLOW_COUNTS, own.flows.counts()),
            (maps::FLOW_LOCKS, &own.flow_locks),
            (maps::FLOW_SEED, own.flow_seed.map()),
            (maps::EVICTIONS, own.evictions.map.map()),
            (maps::DEFERRED_FLOWS, own.flow_handles.map()),
            (maps::BACKENDS, own.backends.map()),
            (maps::FRAGMENTS, own.fragments.map()),
            (maps::DEFER, own.defer.map()),
            (maps::OWN_NODE, own.own_node.map()),
            (maps::NODE_BACKENDS, own.node_backends.map()),
            (maps::KNOWN, own.known.map()),
            (maps::TUNNEL_PORTS, own.tunnel_ports.map.map()),
            (maps::OVERLAY, own.overlay.map.map()),
            (maps::OVERLAY_PREFIXES, own.overlay_prefixes.map()),
            (maps::CONTAINERS, own.containers.map()),
            (maps::EGRESS_MARKS, own.egress_marks.map.map()),
            (maps::EPOCH, own.epoch.map.map()),
            (maps::COUNTERS, own.counters.map.map()),
            (maps::RULE_COUNTS, own.rule_counts.map.map()),
        ] {
            lens.insert(name, len_bytes(map).map_err(|source| failure(name, source))?);
        }
        let allow = own.allow.len_bytes().map_err(|source| failure(maps::ALLOW, source))?;
        lens.insert(maps::ALLOW, allow);
        let identities = own.identities.len_bytes();
        lens.insert(
            maps::IDENTITIES,
            identities.map_err(|source| failure(maps::IDENTITIES, source))?,
        );
        lens.insert(maps::EVENTS, u64::from(maps::EVENTS_LEN_BYTES));
        Ok(lens)
    }
}

fn failure(map: &'static str, source: io::Error) -> Error {
    Error::Map { map, action: "read", source: source.into() }
}
