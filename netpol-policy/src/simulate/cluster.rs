//! The simulated cluster.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::engine::{DatapathError, Engine};
use super::interfaces::Interfaces;
use super::locate::{Located, Route, locate};
use super::probe::{Answer, Probe, Problem};
use super::walk;
use crate::compile::{Capacities, Compiled, LeftOut, MapState, diagnostics, left_out_of_all};
use crate::dataplane::diff;
use crate::model::{Diagnostic, Kind, Namespace, Object, ObjectRef};
use crate::resolve::{Connection, allows_unknown_backend, evaluate};
use crate::store::{Changes, ClusterState, Delta};

/// The label that the API server gives every namespace: its name.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Objects, the maps that follow from them, and an engine that answers probes.
pub struct Cluster {
    state: ClusterState,
    compiled: Compiled,
    map_state: MapState,
    /// The rules for which a node that runs all pods has no room.
    left_out: LeftOut,
    interfaces: Interfaces,
    engine: Engine,
    /// The image does not follow from the state.
    is_stale: bool,
}

impl Cluster {
    /// An empty cluster.
    pub fn new(engine: Engine) -> Self {
        Self::within(engine, Capacities::default())
    }

    /// The same with maps of another size.
    pub fn within(engine: Engine, capacities: Capacities) -> Self {
        Self {
            state: ClusterState::default(),
            compiled: Compiled::default().within(capacities),
            map_state: MapState::default(),
            left_out: LeftOut::new(),
            interfaces: Interfaces::default(),
            engine,
            is_stale: false,
        }
    }

    /// Forgets all objects and begins anew, but for the maps of the engine: they go straight from what they hold to
    /// what the next objects need, since emptying them costs time in the kernel.
    pub fn forget_objects(&mut self) {
        self.state = ClusterState::default();
        self.interfaces = Interfaces::default();
        self.compiled.forget();
        self.is_stale = true;
    }

    /// Makes these all the objects there are: those that are gone are removed, the others added or changed, each by a
    /// delta against the state before.
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

    /// Applies changes of objects as the agent does: all to the state, then one compilation, then the operations by
    /// which the maps differ.
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
        let node_addresses = Delta::OwnAddresses(node_addresses(&self.state));
        for delta in self.interfaces.follow(&self.state).into_iter().chain([node_addresses]) {
            changes.extend(self.state.apply(delta));
        }
        let Engine::Datapath(datapath) = &mut self.engine else {
            self.left_out = left_out_of_all(&self.state, self.compiled.capacities());
            return Ok(());
        };
        let update = self.compiled.update(&self.state, &changes, &self.map_state);
        self.left_out = self.compiled.left_out();
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

    /// Answers a probe: to a Service, whether every pod behind it can be reached. No connection is remembered from one probe to the next.
    ///
    /// # Errors
    /// When the engine cannot be used.
    pub fn probe(&mut self, probe: &Probe) -> Result<Answer, DatapathError> {
        let routes = match locate(&self.state, probe) {
            Ok(Located::Routes(routes)) => routes,
            Ok(Located::NoBackend { source, asked: (address, port) }) => {
                let is_allowed = self.state.owner(source).is_none_or(|pod| {
                    allows_unknown_backend(&self.state, pod, probe.transport, port)
                });
                return Ok(Answer { is_allowed, problem: Some(Problem::NoBackend(address)) });
            }
            Err(problem) => return Ok(Answer { is_allowed: false, problem: Some(problem) }),
        };
        for route in routes {
            match self.judge(&route)? {
                Ok(true) => {}
                Ok(false) => return Ok(Answer { is_allowed: false, problem: None }),
                Err(problem) => return Ok(Answer { is_allowed: false, problem: Some(problem) }),
            }
        }
        Ok(Answer { is_allowed: true, problem: None })
    }

    fn judge(&mut self, route: &Route) -> Result<Result<bool, Problem>, DatapathError> {
        let Route { source, asked: _, destination, transport, port } = *route;
        match &mut self.engine {
            Engine::Reference => {
                let connection = Connection { source, destination, transport, port };
                let mut decision = evaluate(&self.state, &connection);
                decision.leave_out(&self.state, |_, rule| self.left_out.contains_key(rule));
                Ok(Ok(decision.is_allowed()))
            }
            Engine::Datapath(datapath) => {
                walk::send(&mut **datapath, &self.state, &self.map_state, &self.interfaces, route)
            }
        }
    }

    /// The rules for which there is no room.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// The findings on their policies.
    pub fn findings(&self) -> Vec<Diagnostic> {
        diagnostics(&self.left_out, self.compiled.capacities())
    }

    /// The objects.
    pub fn state(&self) -> &ClusterState {
        &self.state
    }

    /// What the maps hold; empty with the reference engine.
    pub fn map_state(&self) -> &MapState {
        &self.map_state
    }
}

/// The addresses of all nodes, as they and their host-network pods report them, without those that a pod holds.
///
/// The agent of a node knows its own node's addresses only. Here all nodes are in one place: egress to any of them is
/// deferred, and judged on the way out if it turns out to be another node's.
fn node_addresses(state: &ClusterState) -> BTreeSet<IpAddr> {
    let of_nodes = state.nodes().flat_map(|node| &node.addresses);
    let of_pods =
        state.pods().filter(|pod| pod.host_network).flat_map(|pod| &pod.reported_addresses);
    of_nodes.chain(of_pods).copied().filter(|address| state.owner(*address).is_none()).collect()
}

/// Adds the namespaces that objects are in and that are not among the objects, with nothing but the label that the API
/// server gives them. Returns their names too.
pub fn with_implicit_namespaces(mut objects: Vec<Object>) -> (Vec<Object>, Vec<Arc<str>>) {
    let mut known = BTreeSet::new();
    let mut mentioned = BTreeSet::new();
    for object in &objects {
        match object {
            Object::Namespace(namespace) => {
                known.insert(Arc::clone(&namespace.name));
            }
            Object::Policy(_) | Object::Pod(_) | Object::Service(_) => {
                mentioned.insert(object.object_ref().name.namespace);
            }
            Object::Node(_) => {}
        }
    }
    let missing: Vec<Arc<str>> = mentioned.difference(&known).cloned().collect();
    objects.extend(missing.iter().map(|name| {
        let labels = [(Arc::from(NAMESPACE_NAME_LABEL), Arc::clone(name))].into_iter().collect();
        Object::Namespace(Namespace { name: Arc::clone(name), labels })
    }));
    (objects, missing)
}
