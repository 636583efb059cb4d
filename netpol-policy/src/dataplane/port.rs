//! The port to the kernel: what the agent needs of it, one trait for each concern.
//!
//! The crate `netpol-datapath` implements it, and a fake in the tests of the agent. [`Maps`] holds the policy,
//! [`Attachments`] the programs on the devices, [`Flows`] the connections. Long steps have three parts: `begin_*` and
//! `end_*` run in the event loop, `run_*` on a worker thread.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, Epoch, IfIndex, Nanos, RuleId};
use netpol_common::keys::{CounterKey, FlowKey, FlowValue, Known, Overlay, PrefixKey};
use netpol_common::mac::Mac;

use super::{Counter, MapOp, MapState};
use crate::store::PodEnd;

/// The interface of a pod that does not run yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewInterface {
    /// Index of the host's end of the veth pair.
    pub ifindex: IfIndex,
    /// No later plugin claims the interface's clsact ingress for traffic shaping, so clsact filters can be attached.
    pub is_unshaped: bool,
}

/// Interfaces that no program could be attached to, with the reasons.
pub type FailedAttachments<E> = Vec<(IfIndex, E)>;

/// Result of migrating one interface from clsact filters to TCX links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migrated {
    /// A TCX link has replaced the filter.
    Yes,
    /// The filter stays, because programs of others beside it would no longer run before a TCX link.
    Shared,
}

/// First header in the frames of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Framing {
    /// An Ethernet header.
    Ethernet,
    /// The IP header (`WireGuard`, tunnels).
    L3,
}

/// The programs that a device needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceRole {
    /// Those of the host's end of a pod's veth pair.
    Pod,
    /// That of a device through which packets leave the node.
    Uplink(Framing),
}

/// Whether the programs of a device are attached, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// All of them, by TCX links.
    Links,
    /// All of them, at least one by a clsact filter.
    Filters,
    /// At least one is not attached.
    Missing,
    /// The device does not exist.
    NoDevice,
}

impl Presence {
    /// Whether all programs are attached.
    pub const fn is_complete(self) -> bool {
        matches!(self, Self::Links | Self::Filters)
    }
}

/// Whether the table of exits was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitTable {
    /// It was there, at most with other devices.
    Intact,
    /// It was missing, or others had changed it.
    Created,
}

/// The maps that hold the policy.
pub trait Maps {
    /// Why an operation failed. All traits of the port share this type.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Performs map operations in their order.
    ///
    /// # Errors
    /// The kernel refused one: those before it are done, those after it are not.
    fn apply(&mut self, ops: &[MapOp]) -> Result<(), Self::Error>;
    /// Reads the content of the maps.
    ///
    /// # Errors
    /// A map cannot be read.
    fn map_state(&self) -> Result<MapState, Self::Error>;
    /// Dropped and audited packets since their endpoint was attached.
    ///
    /// # Errors
    /// The map cannot be read.
    fn counters(&self) -> Result<BTreeMap<CounterKey, Counter>, Self::Error>;
    /// The policy generation: it grows with every change of the maps.
    ///
    /// # Errors
    /// The map cannot be read.
    fn epoch(&self) -> Result<Epoch, Self::Error>;
    /// The addresses whose owners the maps know.
    ///
    /// # Errors
    /// The map cannot be read.
    fn known(&self) -> Result<BTreeMap<Addr, Known>, Self::Error>;
    /// Records whose these addresses are; [`Known::NOBODY`] removes one.
    ///
    /// # Errors
    /// The map is full, or cannot be written.
    fn set_known(&mut self, changes: &BTreeMap<Addr, Known>) -> Result<(), Self::Error>;
    /// Sets the ports on which nodes receive tunnelled packets; port 0 stands for protocols without ports. Pods reach none of
    /// them, at the addresses of nodes. Packets of flows that exist pass until the next epoch.
    ///
    /// # Errors
    /// The map cannot be written.
    fn set_tunnel_ports(&mut self, ports: &BTreeSet<u16>) -> Result<(), Self::Error>;
    /// Sets the devices that lead to the pods of other nodes, by family ([`netpol_common::identities::family`]; none for those missing),
    /// and the blocks of addresses behind them. Packets of flows that exist keep their way until the next epoch.
    ///
    /// # Errors
    /// A map is full, or cannot be written.
    fn set_overlay(
        &mut self,
        devices: &BTreeMap<u32, Overlay>,
        prefixes: &BTreeSet<PrefixKey>,
    ) -> Result<(), Self::Error>;
    /// Prepares what a later change would otherwise wait for. Takes some ten milliseconds, but seldom.
    ///
    /// # Errors
    /// The kernel refuses: later changes wait.
    fn prepare(&mut self) -> Result<(), Self::Error>;
}

/// The programs on the devices.
pub trait Attachments: Maps {
    /// A migration of an interface from clsact filters to TCX links.
    type Migration: Send + 'static;

    /// Attaches the pod programs to an interface, or takes over those that are attached.
    ///
    /// # Errors
    /// The interface is gone, or the kernel refuses.
    fn attach_pod(&mut self, ifindex: IfIndex) -> Result<(), Self::Error>;
    /// [`Maps::apply`], and at the same time [`Attachments::attach_pod`] for these interfaces, whose pods do not run yet.
    /// Uses clsact filters where they attach faster. Returns the interfaces without programs, with the reasons.
    ///
    /// # Errors
    /// Those of [`Maps::apply`].
    fn attach_and_apply(
        &mut self,
        interfaces: &[NewInterface],
        ops: &[MapOp],
    ) -> (FailedAttachments<Self::Error>, Result<(), Self::Error>);
    /// Removes the pod programs from an interface that is no endpoint, so that its packets pass unjudged, and the queueing
    /// discipline that was made for them. Succeeds also after the interface is gone.
    ///
    /// # Errors
    /// The kernel refuses.
    fn detach_pod(&mut self, ifindex: IfIndex) -> Result<(), Self::Error>;
    /// Asks the kernel whether the programs of this process are attached to these devices, because others can remove them.
    ///
    /// # Errors
    /// The kernel does not answer.
    fn presence(
        &self,
        devices: &BTreeMap<IfIndex, DeviceRole>,
    ) -> Result<BTreeMap<IfIndex, Presence>, Self::Error>;
    /// Whether the pod programs are attached to an interface.
    ///
    /// # Errors
    /// The kernel does not answer.
    fn is_attached(&self, ifindex: IfIndex) -> Result<bool, Self::Error> {
        let found = self.presence(&BTreeMap::from([(ifindex, DeviceRole::Pod)]))?;
        Ok(found.get(&ifindex).is_some_and(|presence| presence.is_complete()))
    }
    /// The names of the programs of others that are attached to a device where it has programs of ours in this role. One without a
    /// name is empty.
    ///
    /// # Errors
    /// The interface is gone, or the kernel does not answer.
    fn foreign_programs(
        &self,
        ifindex: IfIndex,
        role: DeviceRole,
    ) -> Result<Vec<String>, Self::Error>;
    /// Whether there are such programs.
    ///
    /// # Errors
    /// The interface is gone, or the kernel does not answer.
    fn has_foreign_programs(
        &self,
        ifindex: IfIndex,
        role: DeviceRole,
    ) -> Result<bool, Self::Error> {
        Ok(!self.foreign_programs(ifindex, role)?.is_empty())
    }
    /// The pod's end of the veth pair of an interface, as it is in the pod's namespace now.
    ///
    /// # Errors
    /// The interface is gone or no veth, or the kernel does not answer.
    fn pod_end(&self, ifindex: IfIndex) -> io::Result<PodEnd>;
    /// Whether a device of the node has this MAC address.
    ///
    /// # Errors
    /// The devices cannot be listed.
    fn is_mac_of_node(&self, mac: Mac) -> io::Result<bool>;
    /// Attaches `uplink_egress` to exactly these devices, and forgets the programs of devices that are gone.
    ///
    /// # Errors
    /// One of the devices refuses; the others have their program.
    fn set_uplinks(&mut self, uplinks: &BTreeMap<IfIndex, Framing>) -> Result<(), Self::Error>;
    /// Attaches `uplink_egress` to this device again, after others have removed it.
    ///
    /// # Errors
    /// The device is gone, or the kernel refuses.
    fn attach_uplink(&mut self, ifindex: IfIndex, framing: Framing) -> Result<(), Self::Error>;
    /// The pods' interfaces that are attached through clsact filters and wait for their migration to TCX links, which cost
    /// packets less. Empty on kernels without TCX.
    ///
    /// # Errors
    /// The pins cannot be read.
    fn awaiting_migration(&self) -> Result<BTreeSet<IfIndex>, Self::Error>;
    /// Begins the migration of this interface, if it has a clsact filter.
    ///
    /// # Errors
    /// The programs for the links cannot be loaded.
    fn begin_migration(&mut self, ifindex: IfIndex)
    -> Result<Option<Self::Migration>, Self::Error>;
    /// The slow part of a migration. Returns the interface and what [`Attachments::end_migration`] needs.
    fn run_migration(migration: Self::Migration) -> (IfIndex, Self::Migration);
    /// Finishes a migration.
    ///
    /// # Errors
    /// A part of the migration failed. The programs are in force all the same.
    fn end_migration(&mut self, migration: Self::Migration) -> Result<Migrated, Self::Error>;
    /// The bridge that a device is a port of.
    fn bridge_of(&self, ifindex: IfIndex) -> Option<IfIndex>;
    /// Makes sure that packets with an egress mark leave the node through these devices only, also while no agent runs. While
    /// programs of another version are left, devices are only added.
    ///
    /// # Errors
    /// The kernel lacks `nf_tables`, or refuses.
    fn set_exits(&mut self, exits: &BTreeSet<IfIndex>) -> Result<ExitTable, Self::Error>;
    /// Whether programs and maps of another version are left, and may be in force.
    fn has_predecessor(&self) -> bool;
    /// Replaces the programs of another version by ours, and removes its maps.
    ///
    /// # Errors
    /// A program cannot be replaced, or a map removed. The call can be repeated.
    fn retire_predecessor(&mut self) -> Result<(), Self::Error>;
}

/// The connections that the programs follow.
pub trait Flows: Maps {
    /// The garbage collection of map entries of removed endpoints.
    type MapGc: Send + 'static;

    /// All connections.
    ///
    /// # Errors
    /// The map cannot be read.
    fn flows(&self) -> Result<BTreeMap<FlowKey, FlowValue>, Self::Error>;
    /// Number of connections that were evicted before they had ended.
    ///
    /// # Errors
    /// The map cannot be read.
    fn n_evicted_flows(&self) -> Result<u64, Self::Error>;
    /// The connections that each rule has decided since its number was first used or removed. Numbers can be those of rules that are
    /// not in force any more. At most [`MAX_RULE_COUNTS`](netpol_common::maps::MAX_RULE_COUNTS): further rules are not counted.
    ///
    /// # Errors
    /// The map cannot be read.
    fn rule_counts(&self) -> Result<BTreeMap<RuleId, u64>, Self::Error>;
    /// Removes the counts of rules that are not in force any more.
    ///
    /// # Errors
    /// The map cannot be written.
    fn remove_rule_counts(&mut self, rules: &[RuleId]) -> Result<(), Self::Error>;
    /// Adds connections that began before the programs were attached. Known ones stay as they are.
    ///
    /// # Errors
    /// The map cannot be written.
    fn add_flows(&mut self, flows: &[(FlowKey, FlowValue)]) -> Result<(), Self::Error>;
    /// Corrects the connections of an interface whose programs were detached for a while: a connection that was seen from its
    /// middle can have the wrong direction. `flows` are the connections that its pod has now, and `udp_ports` the directions in
    /// which flows of other UDP ports begin, if they were active after `since`. A connection with another direction begins
    /// anew, revoked until its next packet is judged, so that a policy that keeps existing connections does not keep it.
    /// Returns how many had another direction.
    ///
    /// # Errors
    /// The map cannot be read or written.
    fn correct_flows(
        &mut self,
        ifindex: IfIndex,
        since: Nanos,
        flows: &[(FlowKey, FlowValue)],
        udp_ports: &BTreeMap<u16, Direction>,
    ) -> Result<usize, Self::Error>;
    /// Number of removed endpoints that may still have connections and counters. These let nothing pass, and are removed
    /// before the interface is an endpoint again.
    fn n_awaiting_gc(&self) -> usize;
    /// Begins to remove these entries, if there are any. One collection at a time.
    ///
    /// # Errors
    /// The maps cannot be opened.
    fn begin_gc(&mut self) -> Result<Option<Self::MapGc>, Self::Error>;
    /// The slow part of a collection. Returns what [`Flows::end_gc`] needs.
    fn run_gc(map_gc: Self::MapGc) -> Self::MapGc;
    /// Finishes a collection. Returns the number of removed entries.
    ///
    /// # Errors
    /// Some entries could not be removed: the next collection removes them.
    fn end_gc(&mut self, map_gc: Self::MapGc) -> Result<usize, Self::Error>;
}

/// All that the agent needs of the kernel.
pub trait Kernel: Maps + Attachments + Flows {}

impl<K: Maps + Attachments + Flows> Kernel for K {}
