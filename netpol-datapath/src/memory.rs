//! What the maps cost.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::{IterableMap as _, MapData};
use netpol_common::maps;

use super::Datapath;
use super::error::Error;

impl Datapath {
    /// Bytes that the kernel holds for each map; ALLOW and IDENTITIES with the maps in them.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn map_len_bytes(&self) -> Result<BTreeMap<&'static str, u64>, Error> {
        let own = &self.maps;
        let mut lens = BTreeMap::new();
        for (name, map) in [
            (maps::ENDPOINTS, own.endpoints.map()),
            (maps::ADDRESSES, own.addresses.map()),
            (maps::PREFIXES, own.prefixes.map()),
            (maps::FLOWS, own.flows.map()),
            (maps::FLOW_LOCKS, &own.flow_locks),
            (maps::FLOW_SEED, own.flow_seed.map()),
            (maps::EVICTIONS, own.evictions.map()),
            (maps::DEFERRED_FLOWS, own.flow_handles.map()),
            (maps::BACKENDS, own.backends.map()),
            (maps::FRAGMENTS, own.fragments.map()),
            (maps::DEFER, own.defer.map()),
            (maps::CONTAINERS, own.containers.map()),
            (maps::EGRESS_MARKS, own.egress_marks.map()),
            (maps::EPOCH, own.epoch.map()),
            (maps::COUNTERS, own.counters.map()),
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

/// As the kernel tells it to whoever has the map open.
///
/// # Errors
/// `/proc` is not there.
pub(super) fn len_bytes(map: &MapData) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
    let value = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    let value = value.and_then(|value| value.trim().parse().ok());
    value.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}
