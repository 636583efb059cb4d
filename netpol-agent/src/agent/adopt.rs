//! Pods that already run when the agent comes to know of them: they get their policy first and the programs after that,
//! so that they never lose their network.
//!
//! Such are pods that are older than the plugin, endpoints whose maps are gone, and those that the programs of another
//! version serve. The connections that they have are known to the maps before the programs are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::flow;
use netpol_common::ids::{Epoch, IfIndex, Nanos, PortBe, RuleId};
use netpol_common::keys::{FlowKey, FlowValue};
use tracing::{error, info, warn};

use super::{Agent, Kernel};
use crate::discovery::{Connection, Found, Search, Wanted};
use netpol_policy::model::{Object, ObjectName, Pod};
use netpol_policy::store::Delta;

/// What the agent knows of pods that run without it.
#[derive(Debug, Default)]
pub(super) struct Adoption {
    /// The node's name; without it nobody can tell which pods should be here.
    node: Option<Arc<str>>,
    /// Pods of this node, and some that were.
    local: BTreeSet<ObjectName>,
    /// Uids of pods whose interface was taken away by a DEL: they wait for their end, or for another ADD.
    ended: BTreeMap<ObjectName, Arc<str>>,
    /// Endpoints without programs of ours, with the connections of their pods once they have been looked for.
    bare: BTreeMap<IfIndex, Option<Vec<Connection>>>,
    /// A search has been made since everything is known.
    has_searched: bool,
}

impl Adoption {
    /// Notes which pods are of this node.
    pub(super) fn note(&mut self, delta: &Delta) {
        match delta {
            Delta::Upsert(Object::Pod(pod)) => self.note_pod(pod),
            Delta::Replace(list) => {
                for object in list.objects() {
                    if let Object::Pod(pod) = object {
                        self.note_pod(pod);
                    }
                }
            }
            // Names that are left over find no pod.
            Delta::Upsert(_)
            | Delta::Remove { .. }
            | Delta::UpsertEndpoint(_)
            | Delta::RemoveEndpoint(_)
            | Delta::OwnAddresses(_) => {}
        }
    }

    fn note_pod(&mut self, pod: &Pod) {
        if self.node.as_ref().is_some_and(|node| *node == pod.node) {
            self.local.insert(pod.name.clone());
        } else {
            self.local.remove(&pod.name);
        }
    }

    /// An endpoint has no programs yet.
    pub(super) fn expect(&mut self, ifindex: IfIndex) {
        self.bare.insert(ifindex, None);
    }

    /// An endpoint has its programs, or is none any more.
    pub(super) fn settle(&mut self, ifindex: IfIndex) {
        self.bare.remove(&ifindex);
    }

    /// Whether an endpoint has no programs yet.
    pub(super) fn is_bare(&self, ifindex: IfIndex) -> bool {
        self.bare.contains_key(&ifindex)
    }
}

impl<K: Kernel> Agent<K> {
    /// Tells on which node this is: its pods are looked for until they are endpoints.
    #[must_use]
    pub fn on_node(mut self, node: Option<Arc<str>>) -> Self {
        self.adoption.node = node;
        self
    }

    /// Pods of this node that have an address and no endpoint.
    pub fn unprotected(&self) -> impl Iterator<Item = &Pod> {
        let attached: BTreeSet<&ObjectName> = self
            .state
            .endpoints()
            .filter(|endpoint| self.state.pod_of(endpoint).is_some())
            .map(|endpoint| &endpoint.pod)
            .collect();
        let local = self.adoption.local.iter().filter_map(|name| self.state.pod(name));
        local.filter(move |pod| {
            !pod.addresses().is_empty()
                && !attached.contains(&pod.name)
                && self.adoption.ended.get(&pod.name) != Some(&pod.uid)
        })
    }

    /// What has to be looked for, once everything is known.
    pub fn wanted(&mut self) -> Search {
        if !self.freshness.missing().is_empty() {
            return Search::default();
        }
        let state = &self.state;
        self.adoption.local.retain(|name| state.pod(name).is_some());
        self.adoption.ended.retain(|name, uid| state.pod(name).is_some_and(|pod| pod.uid == *uid));
        let uids = |pod: &Pod| {
            let both = [&pod.uid, &pod.static_uid].into_iter();
            both.filter(|uid| !uid.is_empty()).cloned().collect()
        };
        let pods = self.unprotected().map(|pod| Wanted {
            pod: pod.name.clone(),
            uids: uids(pod),
            addresses: pod.addresses().to_vec(),
        });
        let is_unknown = |ifindex: IfIndex| matches!(self.adoption.bare.get(&ifindex), Some(None));
        let known = self.registry.records().filter(|record| is_unknown(record.ifindex()));
        Search { pods: pods.collect(), known: known.map(|record| record.add().clone()).collect() }
    }

    /// Whether the first change of the maps has to wait for a search: it could cut off a pod that runs.
    pub(super) fn must_search(&self) -> bool {
        !self.adoption.has_searched
            && (self.adoption.node.is_some() || !self.adoption.bare.is_empty())
    }

    /// Takes in what a search has found.
    pub fn adopt(&mut self, found: Vec<Found>) {
        self.adoption.has_searched = true;
        for connections in self.adoption.bare.values_mut() {
            connections.get_or_insert_default();
        }
        for Found { add, connections } in found {
            let ifindex = IfIndex(add.host_ifindex);
            if self.registry.find(&add.attachment).is_none() {
                let pod = ObjectName::new(&add.pod.namespace, &add.pod.name);
                let is_wanted = self.unprotected().any(|unprotected| unprotected.name == pod);
                let is_taken = self.registry.at(ifindex).is_some();
                if !is_wanted || is_taken {
                    continue;
                }
                self.register(add);
            }
            if let Some(known) = self.adoption.bare.get_mut(&ifindex) {
                *known = Some(connections);
            }
        }
    }

    /// Makes an interface that was found an endpoint.
    fn register(&mut self, mut add: netpol_proto::Add) {
        let ifindex = IfIndex(add.host_ifindex);
        if let Some(endpoint) = self.map_state.endpoints.get_mut(&ifindex) {
            // The maps know it, but the record of it was lost: it is the same endpoint, not another one.
            if add.network.is_empty() && !endpoint.container_id.is_empty() {
                add.attachment.container_id = endpoint.container_id.to_string();
            } else {
                endpoint.container_id = Arc::from(add.attachment.container_id.as_str());
            }
        }
        let endpoint = self.registry.insert(add);
        info!(pod = %endpoint.pod, %ifindex, container = %endpoint.container_id, "pod found that runs already");
        self.apply_delta(Delta::UpsertEndpoint(endpoint));
        self.adoption.expect(ifindex);
    }

    /// Hangs programs on the endpoints whose policy is in force and that have none.
    pub(super) fn attach_bare(&mut self) {
        if self.is_stale() || !self.freshness.missing().is_empty() {
            return;
        }
        let map_state = &self.map_state;
        let ready: Vec<_> = self
            .adoption
            .bare
            .extract_if(.., |ifindex, connections| {
                connections.is_some() && map_state.endpoints.contains_key(ifindex)
            })
            .collect();
        for (ifindex, connections) in ready {
            let flows = flows(ifindex, &connections.unwrap_or_default());
            let attached = self.kernel.add_flows(&flows).and_then(|()| self.kernel.attach(ifindex));
            let pod = self.state.endpoint(ifindex).map(|endpoint| endpoint.pod.to_string());
            match attached {
                Ok(()) => {
                    self.migrations.expect(ifindex);
                    info!(pod, %ifindex, n_connections = flows.len(), "policy of a running pod in force");
                }
                Err(error) => {
                    error!(pod, %ifindex, %error, "running pod is not protected");
                    self.forget(ifindex);
                }
            }
        }
        if self.is_primed && self.adoption.bare.is_empty() && self.kernel.has_predecessor() {
            match self.kernel.retire_predecessor() {
                Ok(()) => info!("the maps and programs of another version are gone"),
                Err(error) => {
                    warn!(%error, "maps and programs of another version stay until they can be removed");
                }
            }
        }
    }

    /// A DEL has taken the interface of a pod away.
    pub(super) fn note_end(&mut self, ifindex: IfIndex) {
        let endpoint = self.state.endpoint(ifindex);
        if let Some(pod) = endpoint.and_then(|endpoint| self.state.pod_of(endpoint)) {
            self.adoption.ended.insert(pod.name.clone(), Arc::clone(&pod.uid));
        }
    }
}

/// Entries for connections that no program has seen begin: each is decided on its next packet, in the direction in
/// which it did begin.
fn flows(ifindex: IfIndex, connections: &[Connection]) -> Vec<(FlowKey, FlowValue)> {
    let now = super::clock::monotonic_now();
    connections.iter().map(|connection| flow_of(ifindex, connection, now)).collect()
}

fn flow_of(ifindex: IfIndex, connection: &Connection, now: Nanos) -> (FlowKey, FlowValue) {
    let Connection { protocol, origin, local_port, remote } = *connection;
    let key = FlowKey {
        ifindex,
        remote: Addr::from(remote.ip()),
        local_port: PortBe::new(local_port),
        remote_port: PortBe::new(remote.port()),
        protocol,
        stage: FlowKey::AT_POD,
        pad: [0; 2],
    };
    let value = FlowValue {
        last_seen: now,
        // No applied change leaves the epoch at 0.
        epoch: Epoch(0),
        rule: RuleId::NONE,
        origin: origin.to_wire(),
        state: flow::OPEN,
        marks: 0,
        pad: [0; 5],
    };
    (key, value)
}
