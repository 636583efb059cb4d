//! The traits `Maps` and `Flows` of the port: the policy and the connections in the kernel's maps.
//!
//! In: map operations. Out: the content of the maps, counters, events. Must not: attach programs.

mod apply;
mod events;
mod flows;
mod gc;
mod memory;
mod overlay;
mod read;
mod tunnels;

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::addr::Addr;
use netpol_common::ids::Epoch;
use netpol_common::keys::{CounterKey, Known, Overlay, PrefixKey};
use netpol_policy::dataplane::port::Maps;
use netpol_policy::dataplane::{Counter, MapOp, MapState};

use crate::datapath::Datapath;
use crate::error::Error;

pub use self::events::{Events, TraceMessages};
pub use self::gc::MapGc;

impl Maps for Datapath {
    type Error = Error;

    /// Performs the operations in their order. Adjacent operations of one kind share system calls.
    ///
    /// # Errors
    /// [`Error::MapFull`], [`Error::Map`], [`Error::ContainerIdTooLong`]. The operations before the one that failed are
    /// done, those after it are not: read [`Maps::map_state`] before the next call.
    fn apply(&mut self, ops: &[MapOp]) -> Result<(), Error> {
        self.maps.apply(ops)
    }

    fn map_state(&self) -> Result<MapState, Error> {
        self.maps.read_state()
    }

    fn counters(&self) -> Result<BTreeMap<CounterKey, Counter>, Error> {
        self.maps.read_counters()
    }

    fn epoch(&self) -> Result<Epoch, Error> {
        self.maps.epoch()
    }

    fn known(&self) -> Result<BTreeMap<Addr, Known>, Error> {
        Ok(self.maps.known.entries()?.into_iter().collect())
    }

    fn set_known(&mut self, changes: &BTreeMap<Addr, Known>) -> Result<(), Error> {
        self.maps.set_known(changes)
    }

    fn set_tunnel_ports(&mut self, ports: &BTreeSet<u16>) -> Result<(), Error> {
        self.maps.set_tunnel_ports(ports)
    }

    fn set_overlay(
        &mut self,
        devices: &BTreeMap<u32, Overlay>,
        prefixes: &BTreeSet<PrefixKey>,
    ) -> Result<(), Error> {
        self.maps.set_overlay(devices, prefixes)
    }

    /// Refills the spare slots of ALLOW, and resizes the tables of IDENTITIES where needed.
    ///
    /// # Errors
    /// [`Error::Map`], [`Error::MapFull`].
    fn prepare(&mut self) -> Result<(), Error> {
        self.maps.identities.prepare()?;
        if self.maps.allow.wants_preparation() { self.maps.allow.prepare() } else { Ok(()) }
    }
}
