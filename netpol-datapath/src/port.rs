//! The port of the core, implemented by the kernel.

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::ids::{Epoch, IfIndex};
use netpol_common::keys::{CounterKey, FlowKey, FlowValue};
use netpol_policy::dataplane::port::{
    Attachments, FailedAttachments, Flows, Framing, Maps, Migrated, NewInterface,
};
use netpol_policy::dataplane::{Counter, MapOp, MapState};

use crate::attach::Role;
use crate::map_gc::MapGc;
use crate::migration::Migration;
use crate::{Datapath, Error};

impl Maps for Datapath {
    type Error = Error;

    fn apply(&mut self, ops: &[MapOp]) -> Result<(), Error> {
        Self::apply(self, ops)
    }

    fn map_state(&self) -> Result<MapState, Error> {
        Self::map_state(self)
    }

    fn counters(&self) -> Result<BTreeMap<CounterKey, Counter>, Error> {
        Self::counters(self)
    }

    fn epoch(&self) -> Result<Epoch, Error> {
        Self::epoch(self)
    }

    fn prepare(&mut self) -> Result<(), Error> {
        Self::prepare(self)
    }
}

impl Attachments for Datapath {
    type Migration = Migration;

    fn attach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        Self::attach(self, ifindex, Role::Pod)
    }

    fn attach_and_apply(
        &mut self,
        interfaces: &[NewInterface],
        ops: &[MapOp],
    ) -> (FailedAttachments<Error>, Result<(), Error>) {
        Self::attach_and_apply(self, interfaces, ops)
    }

    fn is_attached(&self, ifindex: IfIndex) -> Result<bool, Error> {
        Self::is_attached(self, ifindex)
    }

    fn set_uplinks(&mut self, uplinks: &BTreeMap<IfIndex, Framing>) -> Result<(), Error> {
        let attached = self.attached()?;
        let mut result = Ok(());
        for (ifindex, framing) in uplinks {
            let role = match framing {
                Framing::Ethernet => Role::Uplink,
                Framing::L3 => Role::UplinkL3,
            };
            // The interface of a pod that is gone keeps its programs: without an endpoint they drop all.
            let is_pod = attached.get(ifindex) == Some(&Role::Pod);
            if !is_pod && attached.get(ifindex) != Some(&role) {
                result = match Self::attach(self, *ifindex, role) {
                    // It went since the devices were listed.
                    Err(Error::NoDevice { .. }) => result,
                    attached => result.and(attached),
                };
            }
        }
        result
    }

    fn on_filters(&self) -> Result<BTreeSet<IfIndex>, Error> {
        Self::on_filters(self)
    }

    fn begin_migration(&mut self, ifindex: IfIndex) -> Result<Option<Migration>, Error> {
        Self::begin_migration(self, ifindex)
    }

    fn run_migration(migration: Migration) -> (IfIndex, Migration) {
        (migration.ifindex(), migration.run())
    }

    fn end_migration(&mut self, migration: Migration) -> Result<Migrated, Error> {
        Self::end_migration(self, migration)
    }

    fn has_predecessor(&self) -> bool {
        Self::has_predecessor(self)
    }

    fn retire_predecessor(&mut self) -> Result<(), Error> {
        Self::retire_predecessor(self)
    }
}

impl Flows for Datapath {
    type MapGc = MapGc;

    fn flows(&self) -> Result<BTreeMap<FlowKey, FlowValue>, Error> {
        Self::flows(self)
    }

    fn n_evicted_flows(&self) -> Result<u64, Error> {
        Self::n_evicted_flows(self)
    }

    fn add_flows(&mut self, flows: &[(FlowKey, FlowValue)]) -> Result<(), Error> {
        Self::add_flows(self, flows)
    }

    fn n_awaiting_gc(&self) -> usize {
        Self::n_awaiting_gc(self)
    }

    fn begin_gc(&mut self) -> Result<Option<MapGc>, Error> {
        Self::begin_gc(self)
    }

    fn run_gc(map_gc: MapGc) -> MapGc {
        map_gc.run()
    }

    fn end_gc(&mut self, map_gc: MapGc) -> Result<usize, Error> {
        Self::end_gc(self, map_gc)
    }
}
