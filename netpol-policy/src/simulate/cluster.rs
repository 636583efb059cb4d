//! The simulated cluster.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use netpol_common::ids::IfIndex;

use super::engine::{DatapathError, Engine};
use super::interfaces::Interfaces;
use super::path;
use super::probe::{Probe, ProbeResult, Problem};
use super::routes::{Route, Routes, routes};
use crate::compile::{Capacities, Compiled, LeftOut, MapState, diagnostics, left_out_of_all};
use crate::dataplane::diff;
use crate::model::{Diagnostic, Kind, Object, ObjectRef, Pod};
use crate::resolve::allows_unknown_backend;
use crate::store::{Changes, ClusterState, Delta, OwnAddresses, OwnNodeEgress};

/// Objects, the maps compiled from them, and the engine that evaluates probes.
pub struct Cluster {
    state: ClusterState,
    compiled: Compiled,
    map_state: MapState,
    /// The rules that would exceed the map capacities of a node that runs all pods.
    left_out: Arc<LeftOut>,
    interfaces: Interfaces,
    engine: Engine,
    /// Whether `map_state` no longer matches `state`.
    is_stale: bool,
}

impl Cluster {
    /// An empty cluster.
    pub fn new(engine: Engine) -> Self {
        Self::within(engine, Capacities::default())
    }

    /// An empty cluster with maps of these capacities.
    pub fn within(engine: Engine, capacities: Capacities) -> Self {
        Self {
            state: ClusterState::default(),
            compiled: Compiled::default().within(capacities),
            map_state: MapState::default(),
            left_out: Arc::default(),
            interfaces: Interfaces::default(),
            engine,
            is_stale: false,
        }
    }

    /// Sets how connections of pods to their own node are treated.
    #[must_use]
    pub fn with_own_node_egress(mut self, egress: OwnNodeEgress) -> Self {
        self.state.set_own_node_egress(egress);
        self
    }

    /// Removes all objects. The engine's maps keep their entries until the next objects are set, because emptying them
    /// takes time in the kernel.
    pub fn forget_objects(&mut self) {
        let egress = self.state.own_node_egress();
        self.state = ClusterState::default();
        self.state.set_own_node_egress(egress);
        self.interfaces = Interfaces::default();
        self.compiled.forget();
        self.is_stale = true;
    }

    /// Replaces the set of objects, by one delta for each object that differs from the set before.
    ///
    /// # Errors
    /// When the engine's maps refuse a change.
    pub fn set(&mut self, objects: Vec<Object>) -> Result<(), DatapathError> {
        let kept: BTreeSet<ObjectRef> = objects.iter().map(Object::object_ref).collect();
        let gone = Kind::ALL
            .into_iter()
            .flat_map(|kind| self.state.references(kind))
            .filter(|object| !kept.contains(object))
            .map(|object| Delta::Remove { object, uid: None });
        let deltas: Vec<Delta> = gone.chain(objects.into_iter().map(Delta::Upsert)).collect();
        self.apply(deltas)
    }

    /// Applies changes of objects as the agent does: all deltas to the state, then one compilation, then the map operations.
    ///
    /// # Errors
    /// When the engine's maps refuse a change.
    pub fn apply(&mut self, deltas: impl IntoIterator<Item = Delta>) -> Result<(), DatapathError> {
        let mut changes = Changes::default();
        for delta in deltas {
            changes.extend(self.state.apply(delta));
        }
        if changes.is_empty() && !self.is_stale {
            return Ok(());
        }
        let all = node_addresses(&self.state);
        let node_addresses = Delta::OwnAddresses(OwnAddresses { all, ..OwnAddresses::default() });
        for delta in self.interfaces.follow(&self.state).into_iter().chain([node_addresses]) {
            changes.extend(self.state.apply(delta));
        }
        let Engine::Datapath(datapath) = &mut self.engine else {
            self.left_out = Arc::new(left_out_of_all(&self.state, self.compiled.capacities()));
            return Ok(());
        };
        let update = self.compiled.update(&self.state, &changes, &self.map_state);
        self.left_out = Arc::clone(self.compiled.left_out());
        let ops = diff(&update.before, &update.after);
        if let Err(error) = datapath.apply(&ops) {
            self.compiled.forget();
            self.is_stale = true;
            return Err(error);
        }
        update.complete(&mut self.map_state);
        self.is_stale = false;
        Ok(())
    }

    /// Evaluates a probe. A probe of a Service is allowed if every backend pod is allowed. Each probe is evaluated as a new
    /// connection.
    ///
    /// # Errors
    /// When the engine cannot be used.
    pub fn probe(&mut self, probe: &Probe) -> Result<ProbeResult, DatapathError> {
        let routes = match routes(&self.state, probe) {
            Ok(Routes::Found(routes)) => routes,
            Ok(Routes::NoBackend { source, original: (address, port) }) => {
                let is_allowed = self.state.owner(source).is_none_or(|pod| {
                    allows_unknown_backend(&self.state, pod, probe.transport, port)
                });
                return Ok(ProbeResult { is_allowed, problem: Some(Problem::NoBackend(address)) });
            }
            Err(problem) => return Ok(ProbeResult { is_allowed: false, problem: Some(problem) }),
        };
        for route in routes {
            match self.evaluate(&route)? {
                Ok(true) => {}
                Ok(false) => return Ok(ProbeResult { is_allowed: false, problem: None }),
                Err(problem) => {
                    return Ok(ProbeResult { is_allowed: false, problem: Some(problem) });
                }
            }
        }
        Ok(ProbeResult { is_allowed: true, problem: None })
    }

    fn evaluate(&mut self, route: &Route) -> Result<Result<bool, Problem>, DatapathError> {
        match &mut self.engine {
            Engine::Reference => {
                let mut decision = route.decide(&self.state);
                decision.leave_out(&self.state, |_, rule| self.left_out.contains_key(rule));
                Ok(Ok(decision.is_allowed()))
            }
            Engine::Datapath(datapath) => {
                path::send(&mut **datapath, &self.state, &self.map_state, &self.interfaces, route)
            }
        }
    }

    /// The rules that are not in force because they would exceed the map capacities.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// The findings on the policies of those rules.
    pub fn findings(&self) -> Vec<Diagnostic> {
        diagnostics(&self.left_out, self.compiled.refused(), self.compiled.capacities())
    }

    /// The objects.
    pub fn state(&self) -> &ClusterState {
        &self.state
    }

    /// Whether the engine has maps.
    pub(super) fn is_compiled(&self) -> bool {
        matches!(self.engine, Engine::Datapath(_))
    }

    /// The interface of a pod, if it has an address.
    pub(super) fn interface_of(&self, pod: &Pod) -> Option<IfIndex> {
        self.interfaces.of(pod).map(|endpoint| endpoint.ifindex)
    }

    /// The contents of the maps; empty with the reference engine.
    pub fn map_state(&self) -> &MapState {
        &self.map_state
    }
}

/// The addresses of all nodes, as reported by the nodes and by host-network pods, without those that a pod owns.
///
/// An agent has the addresses of its own node only. The simulation has those of all nodes, so egress to any node is deferred,
/// and decided at the uplink if the destination is another node.
fn node_addresses(state: &ClusterState) -> BTreeSet<IpAddr> {
    let of_nodes = state.nodes().flat_map(|node| &node.addresses);
    let of_pods = state.pods_on_host().flat_map(|pod| &pod.reported_addresses);
    of_nodes.chain(of_pods).copied().filter(|address| state.owner(*address).is_none()).collect()
}
