//! Writes the state to the maps.
//!
//! In: the state and its changes. Out: map operations, in an order that is right after every one. If the kernel refuses
//! an operation, the maps go back to the last good state. Programs are attached here too, and then the devices that have them
//! are written to the table of exits.

use std::collections::BTreeMap;

use netpol_common::addr::Addr;
use netpol_common::ids::IfIndex;
use netpol_common::keys::Known;
use netpol_common::maps::MAX_KNOWN;
use netpol_policy::compile::MapStateUpdate;
use netpol_policy::dataplane::port::{ExitTable, FailedAttachments, Kernel, NewInterface};
use netpol_policy::dataplane::{MapOp, apply, diff};
use tracing::{debug, error, info, warn};

use super::state::Agent;
use super::state::tunnels::Written;

impl<K: Kernel> Agent<K> {
    /// Updates the maps if the state is complete and has changed. Then attaches programs to endpoints whose policy is in
    /// force, and answers the ADDs that waited for it.
    pub fn sync(&mut self) {
        let missing = self.freshness.missing();
        if !missing.is_empty() {
            debug!(?missing, "maps not updated: kinds are not listed yet");
        } else if self.must_search() {
            debug!("maps not updated: running pods have not been searched for yet");
        } else if self.is_stale() {
            self.hold_isolation_of_earlier_run();
            let changes = std::mem::take(&mut self.changes);
            self.tunnels.pods_changed(&changes);
            let update = self.compiled.update(&self.state, &changes, &self.map_state);
            self.is_behind = !self.follow(update);
            if self.is_behind {
                self.compiled.forget();
            } else if !self.is_primed {
                self.is_primed = true;
                self.attach_uplinks();
            }
        }
        // Interfaces remain here if the policy of their pods is not known yet, or was in force already.
        if !self.unattached.is_empty() {
            let (failed, _nothing) = self.attach_and_apply(&[]);
            self.refuse_failed(failed);
        }
        self.attach_detached();
        if self.exits.is_changed {
            self.keep_exits();
        }
        self.keep_tunnels();
        self.record_findings();
        self.answer_ready();
    }

    /// Makes sure that the kernel drops packets with an egress mark before devices that lack programs. Before all devices
    /// are known and have theirs, the table of an earlier agent stays as it is.
    pub(super) fn keep_exits(&mut self) {
        if !self.is_primed || !self.exits.is_listed {
            return;
        }
        self.exits.is_changed = false;
        let was_in_place = matches!(self.exits.in_place, Some(Ok(())));
        match self.kernel.set_exits(&self.exits.all()) {
            Ok(ExitTable::Intact) => self.exits.in_place = Some(Ok(())),
            Ok(ExitTable::Created) => {
                if was_in_place {
                    self.exits.n_recreated += 1;
                    warn!(
                        "the nftables table of netpol had been removed or changed by others, and is there again"
                    );
                }
                self.exits.in_place = Some(Ok(()));
            }
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::new(error));
                if self.exits.in_place.as_ref() != Some(&Err(error.clone())) {
                    warn!(
                        error,
                        "no nftables table: until the agent has attached its program to a new device, deferred packets leave through it unjudged"
                    );
                }
                self.exits.in_place = Some(Err(error));
            }
        }
    }

    /// Tells the programs the addresses of nodes and the ports of their tunnels. Before all of them are known, those of an earlier
    /// run stay.
    fn keep_tunnels(&mut self) {
        let n_node_changes = self.state.n_node_changes();
        let written = self.tunnels.written.as_ref();
        let is_written = written.is_some_and(|of| of.n_node_changes == n_node_changes);
        if !self.is_primed || !self.freshness.missing().is_empty() {
            return;
        }
        let forwards = self.map_state.endpoints.values().any(|endpoint| endpoint.value.forwards());
        if is_written && !self.tunnels.is_changed && forwards == self.tunnels.has_pods {
            if forwards {
                self.follow_pods();
            }
            return;
        }
        let Some(ports) = self.tunnels.ports() else { return };
        let of_pods = self.state.node_addresses();
        let own = self.state.own_addresses().iter().copied();
        let nodes = of_pods.chain(own).map(Addr::from).chain(self.tunnels.ends());
        let nodes: BTreeMap<Addr, Known> = nodes.map(|addr| (addr, Known::NODE)).collect();
        let mut known: BTreeMap<Addr, Known> = BTreeMap::new();
        if forwards {
            let room = usize::try_from(MAX_KNOWN).unwrap_or(usize::MAX).saturating_sub(nodes.len());
            let mut pods = self.state.owned_addresses().map(|(address, _)| Addr::from(address));
            known.extend(pods.by_ref().take(room).map(|addr| (addr, Known::POD)));
            let n_left_out = pods.count();
            if n_left_out > 0 {
                error!(n_left_out, "pods that forward may send from addresses of other pods");
            }
        }
        known.extend(nodes);
        let wanted = Written { ports, known, n_node_changes };
        match self.write_tunnels(&wanted) {
            Ok(()) => {
                self.tunnels.written = Some(wanted);
                self.tunnels.is_changed = false;
                self.tunnels.has_pods = forwards;
                self.tunnels.moved.clear();
            }
            Err(error) => {
                self.tunnels.written = None;
                let error = &error as &dyn std::error::Error;
                error!(error, "pods may reach tunnels of nodes");
            }
        }
    }

    /// Tells the programs which pods' addresses have come and gone. Only pods that forward are checked against them.
    fn follow_pods(&mut self) {
        let moved = std::mem::take(&mut self.tunnels.moved);
        let Some(written) = &mut self.tunnels.written else { return };
        let mut changes = BTreeMap::new();
        for addr in moved {
            let found = written.known.get(&addr).copied().unwrap_or(Known::NOBODY);
            let is_owned = self.state.owner(addr.to_ip()).is_some();
            let wanted = if is_owned { Known::POD } else { Known::NOBODY };
            if found != Known::NODE && found != wanted {
                changes.insert(addr, wanted);
            }
        }
        if let Err(error) = self.kernel.set_known(&changes) {
            self.tunnels.written = None;
            let error = &error as &dyn std::error::Error;
            error!(error, "pods that forward may send from addresses of new pods");
            return;
        }
        for (addr, known) in changes {
            if known == Known::NOBODY {
                written.known.remove(&addr);
            } else {
                written.known.insert(addr, known);
            }
        }
    }

    fn write_tunnels(&mut self, wanted: &Written) -> Result<(), K::Error> {
        let found = match &self.tunnels.written {
            Some(written) => written.known.clone(),
            None => self.kernel.known()?,
        };
        let mut changes: BTreeMap<Addr, Known> =
            found.keys().map(|addr| (*addr, Known::NOBODY)).collect();
        changes.extend(&wanted.known);
        changes.retain(|addr, known| found.get(addr).copied().unwrap_or(Known::NOBODY) != *known);
        let has_ports = |written: &Written| written.ports == wanted.ports;
        let is_same_ports = self.tunnels.written.as_ref().is_some_and(has_ports);
        if changes.is_empty() && is_same_ports {
            return Ok(());
        }
        self.kernel.set_known(&changes)?;
        self.kernel.set_tunnel_ports(&wanted.ports)?;
        info!(n_addresses = wanted.known.len(), ports = ?wanted.ports, "addresses of nodes and closed ports of their tunnels in force");
        self.perform(&[MapOp::BumpEpoch])
    }

    /// Updates the maps. If the kernel refuses an operation, undoes the update. Returns whether the maps follow.
    fn follow(&mut self, update: MapStateUpdate) -> bool {
        let ops = diff(&update.before, &update.after);
        if ops.is_empty() {
            return true;
        }
        let (failed, applied) = self.attach_and_apply(&ops);
        if let Err(error) = applied {
            self.refuse_failed(failed);
            error!(
                error = &error as &dyn std::error::Error,
                n_ops = ops.len(),
                "map update refused by the kernel; the last good state stays in force"
            );
            if let Err(error) =
                self.perform(&diff(&self.map_state, &update.undone(&self.map_state)))
            {
                let error = &error as &dyn std::error::Error;
                error!(error, "map update not undone; enforcement may be partial");
            }
            return false;
        }
        // Before `refuse_failed`, which removes endpoints from the map state again.
        update.complete(&mut self.map_state);
        self.refuse_failed(failed);
        self.n_applied += 1;
        info!(
            n_ops = ops.len(),
            n_endpoints = self.map_state.endpoints.len(),
            n_identities = self.compiled.n_identities(),
            n_policies = self.state.n_policies(),
            "policy in force"
        );
        true
    }

    /// Applies operations to the maps, and attaches programs to the interfaces of ADDs at the same time. The caller
    /// updates `map_state` on success, and refuses the interfaces that failed.
    fn attach_and_apply(
        &mut self,
        ops: &[MapOp],
    ) -> (FailedAttachments<K::Error>, Result<(), K::Error>) {
        let interfaces = std::mem::take(&mut self.unattached);
        if interfaces.is_empty() {
            let applied = self.kernel.apply(ops);
            return (Vec::new(), self.read_back_unless(applied));
        }
        let (failed, applied) = self.kernel.attach_and_apply(&interfaces, ops);
        for NewInterface { ifindex, is_unshaped: _ } in interfaces {
            if failed.iter().any(|(failed, _)| *failed == ifindex) {
                self.migrations.expect(ifindex);
            } else {
                self.record_attached(ifindex);
            }
        }
        (failed, self.read_back_unless(applied))
    }

    /// Records that the interface of a new endpoint has its programs.
    pub(super) fn record_attached(&mut self, ifindex: IfIndex) {
        self.migrations.expect(ifindex);
        self.exits.open(ifindex);
        if let Some(bridge) = self.kernel.bridge_of(ifindex) {
            self.exits.add_bridge(bridge);
        }
    }

    fn refuse_failed(&mut self, failed: FailedAttachments<K::Error>) {
        for (ifindex, error) in failed {
            self.refuse(ifindex, "attach to", &error);
        }
    }

    /// Applies operations to the maps and to `map_state`.
    pub(super) fn perform(&mut self, ops: &[MapOp]) -> Result<(), K::Error> {
        let applied = self.kernel.apply(ops);
        self.read_back_unless(applied)?;
        for op in ops {
            apply(op, &mut self.map_state);
        }
        Ok(())
    }

    /// Reads `map_state` back from the maps after an error, because an unknown part of the operations is done.
    fn read_back_unless(&mut self, applied: Result<(), K::Error>) -> Result<(), K::Error> {
        if applied.is_err() {
            match self.kernel.map_state() {
                Ok(map_state) => self.map_state = map_state,
                Err(error) => {
                    error!(error = &error as &dyn std::error::Error, "maps not read back");
                }
            }
        }
        applied
    }
}
