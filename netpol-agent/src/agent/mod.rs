//! The event loop: the only owner of the state.
//!
//! In: updates of the sources, calls of the CNI plugin, news of the node's devices. Out: map operations, answers.
//! Nothing is written to the maps before every kind of object has been listed once; what an earlier run left there
//! stays in force until then.

mod adopt;
mod calls;
mod clock;
mod worker;

mod cluster;
mod drops;
mod explain;
mod findings;
mod handle;
mod latency;
mod map_gc;
mod metrics;
mod migration;
mod registry;
mod report;
mod routes;
mod run;
mod search;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use netpol_common::ids::{Identity, IfIndex};
use netpol_common::keys::EndpointValue;
use netpol_proto::Response;
use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

pub use handle::Handle;
pub use registry::{Record, Registry};
pub use report::{DropRecord, FlowRecord};
pub use run::{CONTROL_SOCKET, Config, Source, lock, run, state_files};
pub use status::{EndpointStatus, MapStatus, PolicyStatus, Protection, SourceStatus, Status};

use self::adopt::Adoption;
use self::latency::Latencies;
use self::map_gc::GcSchedule;
use self::migration::Migrations;
use netpol_datapath::netlink::Devices;
use netpol_policy::compile::{Compiled, LeftOut, MapState, MapStateUpdate};
use netpol_policy::dataplane::port::{FailedAttachments, Framing, Kernel, NewInterface};
use netpol_policy::dataplane::{MapOp, apply, diff};
use netpol_policy::model::{Kind, ObjectName, ObjectRef};
use netpol_policy::source::{DiagnosticIndex, Freshness, SourceUpdate};
use netpol_policy::store::{Changes, ClusterState, Delta, Endpoint};

/// The agent's state.
#[derive(Debug)]
pub struct Agent<K> {
    kernel: K,
    state: ClusterState,
    compiled: Compiled,
    /// What the maps hold.
    map_state: MapState,
    diagnostics: DiagnosticIndex,
    /// The rules for which the maps have no room.
    left_out: LeftOut,
    /// Objects of which something else was found since [`Agent::take_found`].
    found: Vec<ObjectRef>,
    freshness: Freshness,
    registry: Registry,
    waiting: Vec<WaitingAdd>,
    /// Interfaces of ADDs on which no program hangs yet. They are closed in the maps.
    unattached: Vec<NewInterface>,
    adoption: Adoption,
    migrations: Migrations,
    gc_schedule: GcSchedule,
    /// The devices that are to have `uplink_egress`.
    uplinks: BTreeMap<IfIndex, Framing>,
    /// The maps hold all that the programs need: those of this run, or of one before that left them whole.
    is_primed: bool,
    /// What changed since the maps were last brought up to the state.
    changes: Changes,
    /// They were never brought up to it, or the kernel refused.
    is_behind: bool,
    /// The latest source update brought something that the maps must follow.
    has_news: bool,
    n_applied: u64,
    latencies: Latencies,
}

/// A CNI ADD whose pod's policy is not in force yet.
#[derive(Debug)]
struct WaitingAdd {
    ifindex: IfIndex,
    asked: Instant,
    deadline: Instant,
    reply: oneshot::Sender<Response>,
}

impl<K: Kernel> Agent<K> {
    /// An agent that takes over what an earlier run left: `map_state` is what the maps hold.
    pub fn new(kernel: K, mut map_state: MapState, registry: Registry) -> Self {
        for record in registry.records() {
            if let Some(endpoint) = map_state.endpoints.get_mut(&record.ifindex()) {
                endpoint.container_id = Arc::from(record.container_id());
            }
        }
        let highest = map_state.held_identities().last().copied();
        let in_maps =
            map_state.allow.values().flat_map(|map| map.keys()).map(|key| key.identity).max();
        let next = highest
            .max(in_maps)
            .map_or(Identity::FIRST, |identity| Identity(identity.0.saturating_add(1)));
        let is_primed = map_state != MapState::default() && !kernel.has_predecessor();
        let mut agent = Self {
            kernel,
            state: ClusterState::default(),
            compiled: Compiled::after(next),
            map_state,
            diagnostics: DiagnosticIndex::default(),
            left_out: LeftOut::new(),
            found: Vec::new(),
            freshness: Freshness::default(),
            registry,
            waiting: Vec::new(),
            unattached: Vec::new(),
            adoption: Adoption::default(),
            migrations: Migrations::default(),
            gc_schedule: GcSchedule::default(),
            uplinks: BTreeMap::new(),
            is_primed,
            changes: Changes::default(),
            is_behind: true,
            has_news: false,
            n_applied: 0,
            latencies: Latencies::default(),
        };
        let known: Vec<Endpoint> = agent.registry.records().map(Record::endpoint).collect();
        for endpoint in known {
            if agent.is_primed && agent.map_state.endpoints.contains_key(&endpoint.ifindex) {
                agent.attach_known(&endpoint);
            } else {
                // Programs that find nothing in the maps would cut the pod off.
                agent.adoption.expect(endpoint.ifindex);
            }
            drop(agent.state.apply(Delta::UpsertEndpoint(endpoint)));
        }
        agent
    }

    /// Takes over the programs of an endpoint of an earlier run, or hangs them there again.
    fn attach_known(&mut self, endpoint: &Endpoint) {
        match self.kernel.attach(endpoint.ifindex) {
            Ok(()) => {
                self.migrations.expect(endpoint.ifindex);
                info!(pod = %endpoint.pod, ifindex = %endpoint.ifindex, "endpoint taken over");
            }
            Err(error) => {
                error!(pod = %endpoint.pod, ifindex = %endpoint.ifindex, %error, "endpoint is not protected");
            }
        }
    }

    /// Takes in what a source tells. Returns the objects whose findings are not the same as before.
    pub fn update(&mut self, update: SourceUpdate) -> Vec<ObjectRef> {
        self.freshness.apply(&update);
        let changed = self.diagnostics.apply(&update);
        self.tell(&changed);
        for delta in update.deltas {
            self.apply_delta(delta);
        }
        changed
    }

    /// Notes when the latest update arrived. The first lists of objects are no changes: nothing follows them one by one.
    pub fn arrived(&mut self, moment: Instant) {
        if std::mem::take(&mut self.has_news) && self.n_applied > 0 {
            self.latencies.begin(moment);
        }
    }

    /// Tells what time it is, at the end of each step: what is in force by now has been waited for until now.
    pub fn end_step(&mut self, now: Instant) {
        self.latencies.look(now);
        if !self.is_stale() {
            self.latencies.reach(now);
        }
        self.has_news = false;
    }

    /// Does ahead what a later change would have to wait for. For when nothing waits.
    pub fn prepare(&mut self) {
        if let Err(error) = self.kernel.prepare() {
            debug!(error = &error as &dyn std::error::Error, "the next changes have to wait");
        }
    }

    /// Pods of endpoints that no source has told yet.
    pub fn unknown_pods(&self) -> Vec<ObjectName> {
        let unknown =
            self.state.endpoints().filter(|endpoint| self.state.pod_of(endpoint).is_none());
        unknown.map(|endpoint| endpoint.pod.clone()).collect()
    }

    /// Takes in the node's devices: own addresses, uplinks, and interfaces that went without a DEL.
    pub fn set_devices(&mut self, devices: &Devices, exists: impl Fn(IfIndex) -> bool) {
        self.apply_delta(Delta::OwnAddresses(devices.addresses.clone()));
        // A device can be younger than the list: ask again before an endpoint is given up.
        let gone: Vec<IfIndex> = self
            .registry
            .records()
            .map(Record::ifindex)
            .filter(|ifindex| !devices.by_ifindex.contains_key(ifindex) && !exists(*ifindex))
            .collect();
        for ifindex in gone {
            warn!(%ifindex, "endpoint removed: its interface is gone without a DEL");
            self.forget(ifindex);
        }
        self.uplinks = devices
            .by_ifindex
            .iter()
            .filter(|(ifindex, device)| {
                device.is_up && !device.is_bridge && self.state.endpoint(**ifindex).is_none()
            })
            .map(|(ifindex, device)| (*ifindex, device.framing))
            .collect();
        if self.is_primed {
            self.attach_uplinks();
        }
    }

    fn attach_uplinks(&mut self) {
        if let Err(error) = self.kernel.set_uplinks(&self.uplinks) {
            error!(%error, "deferred egress verdicts cannot be finished on every device");
        }
    }

    fn apply_delta(&mut self, delta: Delta) {
        self.adoption.note(&delta);
        let changes = self.state.apply(delta);
        self.has_news |= !changes.is_empty();
        self.changes.extend(changes);
    }

    /// Brings the maps up to the state, if it is known well enough and has changed. Then answers the ADDs whose
    /// policy is in force by now.
    pub fn sync(&mut self) {
        let missing = self.freshness.missing();
        if !missing.is_empty() {
            debug!(?missing, "nothing is enforced from an incomplete picture");
        } else if self.must_search() {
            debug!("nothing changes before the pods that run already have been looked for");
        } else if self.is_stale() {
            let changes = std::mem::take(&mut self.changes);
            let update = self.compiled.update(&self.state, &changes, &self.map_state);
            self.note_left_out();
            self.is_behind = !self.follow(update);
            if self.is_behind {
                self.compiled.forget();
            } else if !self.is_primed {
                self.is_primed = true;
                self.attach_uplinks();
            }
        }
        // The policy of their pods is not known yet, or in force already.
        if !self.unattached.is_empty() {
            let (bare, _nothing) = self.attach_and_apply(&[]);
            self.refuse_bare(bare);
        }
        self.attach_bare();
        self.answer_ready();
    }

    /// Whether the maps may lack what the state says.
    fn is_stale(&self) -> bool {
        self.is_behind || self.changes.matters()
    }

    /// Makes a turn. If the kernel refuses an operation, leads the maps back.
    fn follow(&mut self, update: MapStateUpdate) -> bool {
        let ops = diff(&update.before, &update.after);
        if ops.is_empty() {
            return true;
        }
        let (bare, applied) = self.attach_and_apply(&ops);
        if let Err(error) = applied {
            self.refuse_bare(bare);
            error!(
                error = &error as &dyn std::error::Error,
                "the kernel refuses a change; the last good state stays"
            );
            if let Err(error) =
                self.perform(&diff(&self.map_state, &update.undone(&self.map_state)))
            {
                let error = &error as &dyn std::error::Error;
                error!(error, "the kernel refuses the way back too; enforcement may be partial");
            }
            return false;
        }
        // Before anything is refused: that takes endpoints out of the image again.
        update.complete(&mut self.map_state);
        self.refuse_bare(bare);
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

    /// Applies operations to the maps, and hangs programs on the interfaces of ADDs meanwhile. What it leaves to the caller:
    /// `map_state` on success, and the interfaces that stay bare.
    fn attach_and_apply(
        &mut self,
        ops: &[MapOp],
    ) -> (FailedAttachments<K::Error>, Result<(), K::Error>) {
        let interfaces = std::mem::take(&mut self.unattached);
        if interfaces.is_empty() {
            let applied = self.kernel.apply(ops);
            return (Vec::new(), self.read_back_unless(applied));
        }
        let (bare, applied) = self.kernel.attach_and_apply(&interfaces, ops);
        for NewInterface { ifindex, is_unshaped: _ } in interfaces {
            self.migrations.expect(ifindex);
        }
        (bare, self.read_back_unless(applied))
    }

    fn refuse_bare(&mut self, bare: FailedAttachments<K::Error>) {
        for (ifindex, error) in bare {
            self.refuse(ifindex, "attach to", &error);
        }
    }

    /// Applies operations to the maps and to `map_state`.
    fn perform(&mut self, ops: &[MapOp]) -> Result<(), K::Error> {
        let applied = self.kernel.apply(ops);
        self.read_back_unless(applied)?;
        for op in ops {
            apply(op, &mut self.map_state);
        }
        Ok(())
    }

    /// Keeps `map_state` what the maps hold when not all operations are done: only the maps know which are.
    fn read_back_unless(&mut self, applied: Result<(), K::Error>) -> Result<(), K::Error> {
        if applied.is_err() {
            match self.kernel.map_state() {
                Ok(map_state) => self.map_state = map_state,
                Err(error) => {
                    error!(
                        error = &error as &dyn std::error::Error,
                        "the maps cannot be read back"
                    );
                }
            }
        }
        applied
    }

    /// Whether the policy of an endpoint is in force.
    fn is_ready(&self, ifindex: IfIndex) -> bool {
        !self.is_stale()
            && self
                .map_state
                .endpoints
                .get(&ifindex)
                .is_some_and(|endpoint| endpoint.value.state == EndpointValue::READY)
    }

    /// The known cluster.
    pub fn state(&self) -> &ClusterState {
        &self.state
    }

    /// What the maps hold.
    pub fn map_state(&self) -> &MapState {
        &self.map_state
    }

    /// Kinds that have not been listed yet.
    pub fn missing(&self) -> Vec<Kind> {
        self.freshness.missing()
    }
}

#[cfg(test)]
mod tests;
