//! The agent's state, and the updates that change it. One task owns it: the event loop.
//!
//! In: updates of the sources, the node's devices, the time. Out: the state from which `sync` computes map operations.
//! Must not: read a clock.

pub(super) mod add_failures;
pub(super) mod adoption;
pub(super) mod detached;
pub(super) mod drop_totals;
pub(super) mod exits;
pub(super) mod gc_schedule;
pub(super) mod held_policies;
pub(super) mod last_heard;
pub(super) mod latencies;
pub(super) mod migrations;
pub(super) mod netfilter;
pub(super) mod overlays;
pub(super) mod publishing;
pub(super) mod registry;
pub(super) mod rule_totals;
pub(super) mod short_cuts;
pub(super) mod tunnels;
pub(super) mod unidentified;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use netpol_common::ids::{Identity, IfIndex, RuleId};
use netpol_common::keys::EndpointValue;
use netpol_datapath::netlink::{Device, Devices, Leads};
use netpol_policy::compile::{Compiled, LeftOut, MapState, RefusedServices};
use netpol_policy::dataplane::port::{DeviceRole, Framing, Kernel, NewInterface};
use netpol_policy::model::{Kind, ObjectName, ObjectRef};
use netpol_policy::source::{DiagnosticIndex, Freshness, Health, SourceUpdate};
use netpol_policy::store::{Changes, ClusterState, Delta, Endpoint, OwnAddresses, OwnNodeEgress};
use netpol_proto::Response;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

use crate::agent::endpoints::pod_end::ChangeableEnd;

use self::add_failures::AddFailures;
use self::adoption::Adoption;
use self::detached::Detached;
use self::drop_totals::DropTotals;
use self::exits::Exits;
use self::gc_schedule::GcSchedule;
use self::held_policies::HeldPolicies;
use self::last_heard::LastHeard;
use self::latencies::Latencies;
use self::migrations::Migrations;
use self::netfilter::Netfilter;
use self::publishing::Publishing;
use self::registry::{Record, Registry};
use self::rule_totals::RuleTotals;
use self::short_cuts::{ShortCut, ShortCuts};
use self::tunnels::{PodTunnels, Tunnels};
use self::unidentified::Unidentified;

/// The agent's state.
#[derive(Debug)]
pub struct Agent<K> {
    pub(super) kernel: K,
    pub(super) state: ClusterState,
    pub(super) compiled: Compiled,
    /// Content of the maps.
    pub(super) map_state: MapState,
    pub(super) diagnostics: DiagnosticIndex,
    /// The rules that exceed the capacity of the maps.
    pub(super) left_out: Arc<LeftOut>,
    /// The Services that do.
    pub(super) refused: RefusedServices,
    /// The nodes that run pods, and when they were collected.
    pub(super) nodes: Option<(Instant, BTreeSet<Arc<str>>)>,
    /// The pods of this node whose interface is gone.
    pub(super) disconnected: BTreeSet<ObjectName>,
    /// Objects whose diagnostics have changed since [`Agent::take_found`].
    pub(super) found: Vec<ObjectRef>,
    pub(super) freshness: Freshness,
    pub(super) last_heard: LastHeard,
    pub(super) registry: Registry,
    pub(super) waiting: Vec<WaitingAdd>,
    /// Interfaces of ADDs without programs yet. Their endpoints are blocked in the maps.
    pub(super) unattached: Vec<NewInterface>,
    /// New interfaces whose end in the pod may still change.
    pub(super) changeable: BTreeMap<IfIndex, ChangeableEnd>,
    pub(super) adoption: Adoption,
    pub(super) unidentified: Unidentified,
    pub(super) held: HeldPolicies,
    pub(super) migrations: Migrations,
    pub(super) gc_schedule: GcSchedule,
    pub(super) detached: Detached,
    pub(super) exits: Exits,
    pub(super) publishing: Publishing,
    pub(super) tunnels: Tunnels,
    pub(super) short_cuts: ShortCuts,
    pub(super) netfilter: Netfilter,
    /// The latest list of the node's devices.
    devices: Devices,
    /// The devices that get `uplink_egress`.
    pub(super) uplinks: BTreeMap<IfIndex, Uplink>,
    /// The maps are complete: this run has written them once, or an earlier run of this version had.
    pub(super) is_primed: bool,
    /// Changes since the maps were last updated.
    pub(super) changes: Changes,
    /// The maps have never been updated to the state, or the kernel refused the last update.
    pub(super) is_behind: bool,
    /// The latest source update has changed something that the maps must follow.
    has_news: bool,
    pub(super) n_applied: u64,
    pub(super) latencies: Latencies,
    pub(super) add_failures: AddFailures,
    pub(super) drop_totals: DropTotals,
    pub(super) rule_totals: RuleTotals,
    /// [`Compiled::n_numbered_rules`] when `rule_totals` was last told the rules in force.
    pub(super) n_numbered_rules: u32,
}

/// A device through which packets leave the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Uplink {
    pub(super) name: String,
    pub(super) framing: Framing,
}

/// The policies of an earlier run are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromBefore {
    /// When all of them were known to be up to date, in seconds since 1970; `None` if the earlier run has not written it.
    pub since_unix_s: Option<u64>,
}

impl fmt::Display for FromBefore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.since_unix_s.and_then(|at| Timestamp::from_second(at.try_into().ok()?).ok());
        match at {
            Some(at) => write!(f, "in force from before, not up to date since {at}"),
            None => f.write_str("in force from before, not up to date since an unknown time"),
        }
    }
}

/// A CNI ADD whose pod's policy is not in force yet.
#[derive(Debug)]
pub(super) struct WaitingAdd {
    pub(super) ifindex: IfIndex,
    pub(super) asked: Instant,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Response>,
}

impl<K: Kernel> Agent<K> {
    /// An agent that takes over from an earlier run: `map_state` is the content of the maps.
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
        let rules = map_state.allow.values().flat_map(|map| map.values()).map(|value| value.rule);
        let next_rule = rules.max().map_or(RuleId(1), |rule| RuleId(rule.0.saturating_add(1)));
        let is_primed = map_state != MapState::default() && !kernel.has_predecessor();
        let mut agent = Self {
            kernel,
            state: ClusterState::default(),
            compiled: Compiled::after(next, next_rule),
            map_state,
            diagnostics: DiagnosticIndex::default(),
            left_out: Arc::default(),
            refused: RefusedServices::new(),
            nodes: None,
            disconnected: BTreeSet::new(),
            found: Vec::new(),
            freshness: Freshness::default(),
            last_heard: LastHeard::default(),
            registry,
            waiting: Vec::new(),
            unattached: Vec::new(),
            changeable: BTreeMap::new(),
            adoption: Adoption::default(),
            unidentified: Unidentified::default(),
            devices: Devices::default(),
            held: HeldPolicies::default(),
            migrations: Migrations::default(),
            gc_schedule: GcSchedule::default(),
            detached: Detached::default(),
            exits: Exits::default(),
            publishing: Publishing::default(),
            tunnels: Tunnels::default(),
            short_cuts: ShortCuts::default(),
            netfilter: Netfilter::default(),
            uplinks: BTreeMap::new(),
            is_primed,
            changes: Changes::default(),
            is_behind: true,
            has_news: false,
            n_applied: 0,
            latencies: Latencies::default(),
            add_failures: AddFailures::default(),
            drop_totals: DropTotals::default(),
            rule_totals: RuleTotals::default(),
            n_numbered_rules: 0,
        };
        agent.read_missing_pod_ends();
        let recorded: Vec<Endpoint> = agent.registry.records().map(Record::endpoint).collect();
        for endpoint in recorded {
            if agent.is_primed && agent.map_state.endpoints.contains_key(&endpoint.ifindex) {
                agent.attach_recorded(&endpoint);
            } else {
                // With empty maps the programs would drop all packets of the pod.
                agent.adoption.expect(endpoint.ifindex);
            }
            drop(agent.state.apply(Delta::UpsertEndpoint(endpoint)));
        }
        agent
    }

    /// Sets the node of this agent: its pods are searched for until they are endpoints.
    #[must_use]
    pub fn on_node(mut self, node: Option<Arc<str>>) -> Self {
        self.adoption.node = node;
        self
    }

    /// Sets whether pods may send tunnelled packets to nodes, and the ports of tunnels that no network device shows.
    #[must_use]
    pub(super) fn with_tunnels(mut self, for_pods: PodTunnels, further_ports: Vec<u16>) -> Self {
        self.tunnels.for_pods = for_pods;
        self.tunnels.further_ports = further_ports;
        self
    }

    /// Sets whether packets between pods of this node take the short cut.
    #[must_use]
    pub(super) fn with_short_cut(mut self, mode: ShortCut) -> Self {
        self.short_cuts.mode = mode;
        if mode != ShortCut::Off {
            // Until the devices are listed, what an earlier run found counts: a connection that leaves the short cut never returns.
            let endpoints = self.map_state.endpoints.iter();
            let taking = endpoints.filter(|(_, endpoint)| endpoint.value.takes_short_cut());
            let taking = taking.map(|(ifindex, _)| *ifindex).collect();
            self.apply_delta(Delta::ShortCuts(taking));
        }
        self
    }

    /// Sets whether connections of pods to this node need a rule that allows them.
    #[must_use]
    pub(super) fn with_own_node_egress(mut self, egress: OwnNodeEgress) -> Self {
        self.state.set_own_node_egress(egress);
        self
    }

    /// Sets where the pods go that are published before the API reports their addresses.
    #[must_use]
    pub(super) fn publishing(mut self, publishing: Publishing) -> Self {
        self.publishing = publishing;
        self
    }

    /// Sets where the time is kept at which all was up to date.
    #[must_use]
    pub(super) fn remembering(mut self, last_heard: LastHeard) -> Self {
        self.last_heard = last_heard;
        self
    }

    /// Sets where the interfaces are kept that are blocked until they are identified.
    #[must_use]
    pub(super) fn unblocking(mut self, unidentified: Unidentified) -> Self {
        self.unidentified = unidentified;
        self
    }

    /// Records the time of day, if every kind is up to date.
    pub(super) fn record_time(&mut self, now_unix_s: u64) {
        let is_synced = |kind| matches!(self.freshness.of(kind), Health::Synced { .. });
        if Kind::BUILT_IN.into_iter().all(is_synced) && self.freshness.missing().is_empty() {
            self.last_heard.record(now_unix_s);
        }
    }

    /// If the policies of an earlier run are in force and this run has not listed every kind: when that was up to date.
    pub(super) fn in_force_from_before(&self) -> Option<FromBefore> {
        let is_so = self.is_primed && self.n_applied == 0 && !self.freshness.missing().is_empty();
        is_so.then(|| FromBefore { since_unix_s: self.last_heard.unix_s() })
    }

    /// Takes over the programs of an endpoint of an earlier run, or attaches them again.
    fn attach_recorded(&mut self, endpoint: &Endpoint) {
        match self.kernel.attach_pod(endpoint.ifindex) {
            Ok(()) => {
                self.migrations.expect(endpoint.ifindex);
                self.exits.open(endpoint.ifindex);
                info!(pod = %endpoint.pod, ifindex = %endpoint.ifindex, "endpoint taken over");
            }
            Err(error) => {
                error!(pod = %endpoint.pod, ifindex = %endpoint.ifindex, %error, "endpoint not protected");
            }
        }
    }

    /// Applies an update of a source. Returns the objects whose diagnostics have changed.
    pub fn update(&mut self, update: SourceUpdate) -> Vec<ObjectRef> {
        self.freshness.apply(&update);
        let changed = self.diagnostics.apply(&update);
        self.log_diagnostics(&changed);
        for delta in update.deltas {
            self.apply_delta(delta);
        }
        changed
    }

    /// Logs the diagnostics of these objects.
    pub(super) fn log_diagnostics(&self, objects: &[ObjectRef]) {
        for object in objects {
            for diagnostic in self.diagnostics.of(object) {
                warn!(%object, code = diagnostic.code.as_str(), field = %diagnostic.field, "{}", diagnostic.message);
            }
        }
    }

    /// Records the arrival of the latest update, for the latency of changes. The first lists of objects do not count,
    /// because they are applied together and not one by one.
    pub fn arrived(&mut self, moment: Instant) {
        if std::mem::take(&mut self.has_news) && self.n_applied > 0 {
            self.latencies.begin(moment);
        }
    }

    /// Ends a step of the event loop: changes that are in force now have waited until `now`.
    pub fn end_step(&mut self, now: Instant) {
        self.latencies.observe_adds(now);
        if !self.is_stale() {
            self.latencies.observe_changes(now);
        }
        self.has_news = false;
    }

    /// Prepares what a later change would otherwise wait for. Called while the event loop is idle.
    pub fn prepare(&mut self) {
        if let Err(error) = self.kernel.prepare() {
            debug!(error = &error as &dyn std::error::Error, "later changes not prepared");
        }
    }

    /// Pods of endpoints that no source has reported yet.
    pub fn unknown_pods(&self) -> Vec<ObjectName> {
        let unknown =
            self.state.endpoints().filter(|endpoint| self.state.pod_of(endpoint).is_none());
        unknown.map(|endpoint| endpoint.pod.clone()).collect()
    }

    /// Applies the list of the node's devices: own addresses, new interfaces, uplinks, and interfaces that have gone without a
    /// DEL.
    pub fn set_devices(
        &mut self,
        devices: Devices,
        exists: impl Fn(IfIndex) -> bool,
        now: Instant,
    ) {
        self.apply_delta(Delta::OwnAddresses(OwnAddresses {
            all: devices.addresses.clone(),
            of_ipvs: devices.of_ipvs.clone(),
        }));
        // A device can be younger than the list: ask the kernel again before the endpoint is removed.
        let gone: Vec<IfIndex> = self
            .registry
            .records()
            .map(Record::ifindex)
            .filter(|ifindex| !devices.by_ifindex.contains_key(ifindex) && !exists(*ifindex))
            .collect();
        for ifindex in gone {
            warn!(%ifindex, "endpoint removed: its interface is gone without a DEL");
            self.registry.set_gone(ifindex);
            self.remove_endpoint(ifindex);
        }
        let veths =
            devices.by_ifindex.iter().filter(|(_, device)| device.leads == Leads::ToNamespace);
        let veths = veths.map(|(ifindex, device)| (*ifindex, device.clone())).collect();
        for ifindex in self.unidentified.list(veths, now) {
            self.block(ifindex, now);
        }
        self.tunnels.is_changed |= devices.addresses != self.devices.addresses;
        self.tunnels.set_devices(&devices.tunnels);
        self.devices = devices;
        self.list_short_cuts();
        self.follow_uplinks();
        let bridges =
            self.devices.by_ifindex.iter().filter(|(_, device)| device.leads == Leads::ToPorts);
        let bridges = bridges.map(|(ifindex, _)| *ifindex).collect();
        self.exits.set_bridges(bridges, |ifindex| {
            self.devices.by_ifindex.contains_key(&ifindex) || exists(ifindex)
        });
    }

    /// Takes the uplinks from the list of devices. A blocked interface is none.
    pub(super) fn follow_uplinks(&mut self) {
        let (state, unidentified) = (&self.state, &self.unidentified);
        let is_uplink = |ifindex: IfIndex, device: &Device| {
            device.is_up
                && device.leads != Leads::ToPorts
                && state.endpoint(ifindex).is_none()
                && !unidentified.is_blocked(ifindex)
        };
        let uplinks = self.devices.by_ifindex.iter();
        self.uplinks = uplinks
            .filter(|(ifindex, device)| is_uplink(**ifindex, device))
            .map(|(ifindex, device)| {
                (*ifindex, Uplink { name: device.name.clone(), framing: device.framing })
            })
            .collect();
        if self.is_primed {
            self.attach_uplinks();
        }
    }

    pub(super) fn attach_uplinks(&mut self) {
        let framings = self.uplinks.iter().map(|(ifindex, uplink)| (*ifindex, uplink.framing));
        if let Err(error) = self.kernel.set_uplinks(&framings.collect()) {
            error!(%error, "uplink programs not attached to every device: deferred verdicts are not finished there");
        }
        let mut uplinks = self.guarded();
        uplinks.retain(|_, role| matches!(role, DeviceRole::Uplink(_)));
        for (ifindex, presence) in self.kernel.presence(&uplinks).unwrap_or_default() {
            if presence.is_complete() {
                self.exits.open(ifindex);
            }
        }
    }

    /// The devices that must have programs now. Interfaces that are about to get theirs are not among them.
    pub(super) fn guarded(&self) -> BTreeMap<IfIndex, DeviceRole> {
        if !self.is_primed {
            return BTreeMap::new();
        }
        let is_new = |ifindex: IfIndex| self.unattached.iter().any(|new| new.ifindex == ifindex);
        let endpoints = self.state.endpoints().map(|endpoint| endpoint.ifindex);
        let pods = endpoints
            .filter(|ifindex| !self.adoption.is_detached(*ifindex) && !is_new(*ifindex))
            .map(|ifindex| (ifindex, DeviceRole::Pod));
        // A device that has become an endpoint since it was listed is no uplink any more.
        let uplinks = self
            .uplinks
            .iter()
            .filter(|(ifindex, _)| self.state.endpoint(**ifindex).is_none())
            .map(|(ifindex, uplink)| (*ifindex, DeviceRole::Uplink(uplink.framing)));
        pods.chain(uplinks).collect()
    }

    pub(super) fn apply_delta(&mut self, delta: Delta) {
        for delta in self.hold_back(delta) {
            self.apply_to_store(delta);
        }
    }

    /// Applies a delta, also the deletion of a policy that would have to wait.
    fn apply_to_store(&mut self, delta: Delta) {
        self.adoption.apply(&delta);
        let changes = self.state.apply(delta);
        self.has_news |= !changes.is_empty();
        self.publishing.follow(&changes);
        self.changes.extend(changes);
    }

    /// Whether the maps may be behind the state.
    pub(super) fn is_stale(&self) -> bool {
        self.is_behind || self.changes.matters()
    }

    /// Whether the policy of an endpoint is in force.
    pub(super) fn is_ready(&self, ifindex: IfIndex) -> bool {
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

    /// The content of the maps.
    pub fn map_state(&self) -> &MapState {
        &self.map_state
    }

    /// The current diagnostics of the objects.
    pub fn diagnostics(&self) -> &DiagnosticIndex {
        &self.diagnostics
    }

    /// Kinds that have not been listed yet.
    pub fn missing(&self) -> Vec<Kind> {
        self.freshness.missing()
    }
}
