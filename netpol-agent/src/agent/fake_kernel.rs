//! A kernel in memory, for tests of the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, Epoch, IfIndex, Nanos, RuleId};
use netpol_common::keys::{CounterKey, FlowKey, FlowValue, Known, Overlay, PrefixKey};
use netpol_common::mac::Mac;
use netpol_policy::compile::MapState;
use netpol_policy::dataplane::port::{
    Attachments, DeviceRole, ExitTable, Flows, Framing, Maps, Migrated, NewInterface, Presence,
};
use netpol_policy::dataplane::{Counter, MapOp, apply};
use netpol_policy::store::PodEnd;

/// Records operations and attachments, and refuses what a test forbids.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a failure that a test causes")]
pub(super) struct FakeKernel {
    pub(super) log: Vec<MapOp>,
    pub(super) maps: MapState,
    pub(super) attached: Vec<IfIndex>,
    pub(super) refuses: Option<fn(&MapOp) -> bool>,
    pub(super) flows: Vec<(FlowKey, FlowValue)>,
    /// Interfaces with programs of others.
    pub(super) with_foreign_programs: BTreeSet<IfIndex>,
    pub(super) n_uplink_changes: usize,
    pub(super) has_predecessor: bool,
    pub(super) refuses_attach: bool,
    /// The pods' ends of veth pairs, where they can be read.
    pub(super) pod_ends: BTreeMap<IfIndex, PodEnd>,
    /// The kernel does not report which programs are attached.
    pub(super) is_blind: bool,
    /// The table of exits; empty if there is none, `None` if the kernel has no `nf_tables`.
    pub(super) exits: Option<BTreeSet<IfIndex>>,
    /// Interfaces whose connections have been corrected, with the time and the number of connections.
    pub(super) corrected: Vec<(IfIndex, Nanos, usize)>,
    /// Whose addresses are known, and the ports of tunnels.
    pub(super) known: BTreeMap<Addr, Known>,
    pub(super) tunnel_ports: BTreeSet<u16>,
    pub(super) overlay: (BTreeMap<u32, Overlay>, BTreeSet<PrefixKey>),
    pub(super) rule_counts: BTreeMap<RuleId, u64>,
    pub(super) refuses_gc: bool,
    /// Removed endpoints that wait for garbage collection.
    pub(super) gone: BTreeSet<IfIndex>,
    /// Interfaces with clsact filters, each for both programs.
    pub(super) on_filters: BTreeSet<IfIndex>,
}

/// The MAC address of the node's bridge.
pub(super) const MAC_OF_NODE: Mac = Mac::new([2, 0, 0, 0, 0, 1]);

#[derive(Debug, thiserror::Error)]
#[error("map is full")]
pub(super) struct Full;

impl Maps for FakeKernel {
    type Error = Full;

    fn apply(&mut self, ops: &[MapOp]) -> Result<(), Full> {
        for op in ops {
            if self.refuses.is_some_and(|refuses| refuses(op)) {
                return Err(Full);
            }
            if let MapOp::RemoveEndpoint(ifindex) = op {
                self.gone.insert(*ifindex);
            }
            apply(op, &mut self.maps);
            self.log.push(op.clone());
        }
        Ok(())
    }

    fn map_state(&self) -> Result<MapState, Full> {
        Ok(self.maps.clone())
    }

    fn counters(&self) -> Result<BTreeMap<CounterKey, Counter>, Full> {
        let key = CounterKey { ifindex: IfIndex(7), direction: 0, verdict: 128, pad: [0; 2] };
        Ok(BTreeMap::from([(key, Counter { packets: 3, bytes: 180 })]))
    }

    fn epoch(&self) -> Result<Epoch, Full> {
        Ok(Epoch(9))
    }

    fn known(&self) -> Result<BTreeMap<Addr, Known>, Full> {
        Ok(self.known.clone())
    }

    fn set_known(&mut self, changes: &BTreeMap<Addr, Known>) -> Result<(), Full> {
        self.known.extend(changes);
        self.known.retain(|_, known| *known != Known::NOBODY);
        Ok(())
    }

    fn set_tunnel_ports(&mut self, ports: &BTreeSet<u16>) -> Result<(), Full> {
        self.tunnel_ports.clone_from(ports);
        Ok(())
    }

    fn set_overlay(
        &mut self,
        devices: &BTreeMap<u32, Overlay>,
        prefixes: &BTreeSet<PrefixKey>,
    ) -> Result<(), Full> {
        self.overlay = (devices.clone(), prefixes.clone());
        Ok(())
    }

    fn prepare(&mut self) -> Result<(), Full> {
        Ok(())
    }
}

impl Attachments for FakeKernel {
    type Migration = IfIndex;

    fn attach_pod(&mut self, ifindex: IfIndex) -> Result<(), Full> {
        if self.refuses_attach {
            return Err(Full);
        }
        self.attached.push(ifindex);
        Ok(())
    }

    fn attach_and_apply(
        &mut self,
        interfaces: &[NewInterface],
        ops: &[MapOp],
    ) -> (Vec<(IfIndex, Full)>, Result<(), Full>) {
        let unshaped = interfaces.iter().filter(|new| new.is_unshaped);
        self.on_filters.extend(unshaped.map(|new| new.ifindex));
        let failure = |new: &NewInterface| Some((new.ifindex, self.attach_pod(new.ifindex).err()?));
        let failed = interfaces.iter().filter_map(failure).collect();
        (failed, self.apply(ops))
    }

    fn detach_pod(&mut self, ifindex: IfIndex) -> Result<(), Full> {
        self.attached.retain(|attached| *attached != ifindex);
        self.on_filters.remove(&ifindex);
        Ok(())
    }

    fn pod_end(&self, ifindex: IfIndex) -> io::Result<PodEnd> {
        self.pod_ends.get(&ifindex).cloned().ok_or(io::ErrorKind::NotFound.into())
    }

    fn is_mac_of_node(&self, mac: Mac) -> io::Result<bool> {
        Ok(mac == MAC_OF_NODE)
    }

    fn presence(
        &self,
        devices: &BTreeMap<IfIndex, DeviceRole>,
    ) -> Result<BTreeMap<IfIndex, Presence>, Full> {
        if self.is_blind {
            return Err(Full);
        }
        let of = |ifindex: &IfIndex| {
            if !self.attached.contains(ifindex) {
                Presence::Missing
            } else if self.on_filters.contains(ifindex) {
                Presence::Filters
            } else {
                Presence::Links
            }
        };
        Ok(devices.keys().map(|ifindex| (*ifindex, of(ifindex))).collect())
    }

    fn foreign_programs(&self, ifindex: IfIndex, _: DeviceRole) -> Result<Vec<String>, Full> {
        let is_there = self.with_foreign_programs.contains(&ifindex);
        Ok(is_there.then(|| "cil_from_contai".to_owned()).into_iter().collect())
    }

    fn attach_uplink(&mut self, ifindex: IfIndex, _: Framing) -> Result<(), Full> {
        self.attach_pod(ifindex)
    }

    fn set_uplinks(&mut self, uplinks: &BTreeMap<IfIndex, Framing>) -> Result<(), Full> {
        self.n_uplink_changes += 1;
        self.attached.extend(uplinks.keys());
        Ok(())
    }

    fn bridge_of(&self, _: IfIndex) -> Option<IfIndex> {
        Some(IfIndex(2))
    }

    fn set_exits(&mut self, exits: &BTreeSet<IfIndex>) -> Result<ExitTable, Full> {
        let Some(found) = &mut self.exits else { return Err(Full) };
        let before = std::mem::replace(found, exits.clone());
        Ok(if before.is_empty() { ExitTable::Created } else { ExitTable::Intact })
    }

    fn awaiting_migration(&self) -> Result<BTreeSet<IfIndex>, Full> {
        Ok(self.on_filters.clone())
    }

    fn begin_migration(&mut self, ifindex: IfIndex) -> Result<Option<IfIndex>, Full> {
        Ok(self.on_filters.get(&ifindex).copied())
    }

    fn run_migration(migration: IfIndex) -> (IfIndex, IfIndex) {
        (migration, migration)
    }

    fn end_migration(&mut self, migration: IfIndex) -> Result<Migrated, Full> {
        self.on_filters.remove(&migration);
        Ok(Migrated::Yes)
    }

    fn has_predecessor(&self) -> bool {
        self.has_predecessor
    }

    fn retire_predecessor(&mut self) -> Result<(), Full> {
        self.has_predecessor = false;
        Ok(())
    }
}

impl Flows for FakeKernel {
    type MapGc = BTreeSet<IfIndex>;

    fn flows(&self) -> Result<BTreeMap<FlowKey, FlowValue>, Full> {
        Ok(BTreeMap::new())
    }

    fn n_evicted_flows(&self) -> Result<u64, Full> {
        Ok(0)
    }

    fn rule_counts(&self) -> Result<BTreeMap<RuleId, u64>, Full> {
        Ok(self.rule_counts.clone())
    }

    fn remove_rule_counts(&mut self, rules: &[RuleId]) -> Result<(), Full> {
        self.rule_counts.retain(|rule, _| !rules.contains(rule));
        Ok(())
    }

    fn add_flows(&mut self, flows: &[(FlowKey, FlowValue)]) -> Result<(), Full> {
        self.flows.extend_from_slice(flows);
        Ok(())
    }

    fn correct_flows(
        &mut self,
        ifindex: IfIndex,
        since: Nanos,
        flows: &[(FlowKey, FlowValue)],
        _: &BTreeMap<u16, Direction>,
    ) -> Result<usize, Full> {
        self.corrected.push((ifindex, since, flows.len()));
        Ok(flows.len())
    }

    fn n_awaiting_gc(&self) -> usize {
        self.gone.len()
    }

    fn begin_gc(&mut self) -> Result<Option<BTreeSet<IfIndex>>, Full> {
        Ok(Some(self.gone.clone()))
    }

    fn run_gc(map_gc: BTreeSet<IfIndex>) -> BTreeSet<IfIndex> {
        map_gc
    }

    fn end_gc(&mut self, map_gc: BTreeSet<IfIndex>) -> Result<usize, Full> {
        if self.refuses_gc {
            return Err(Full);
        }
        self.gone.retain(|ifindex| !map_gc.contains(ifindex));
        Ok(map_gc.len())
    }
}
