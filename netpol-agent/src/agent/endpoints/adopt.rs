//! Adoption of running pods: they get their policy first and their programs after that, so that they never lose their
//! network.
//!
//! These are pods that are older than the plugin, endpoints whose maps are gone, and endpoints with programs of another
//! version. The connections that they have are added to the maps before the programs are attached.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use netpol_common::addr::Addr;
use netpol_common::flow;
use netpol_common::ids::{Epoch, IfIndex, Nanos, PortBe, RuleId};
use netpol_common::keys::{FlowKey, FlowValue};
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::model::{ObjectName, Pod, PodPhase};
use netpol_policy::store::Delta;
use tracing::{error, info, warn};

use crate::agent::clock::monotonic_now;
use crate::agent::state::Agent;
use crate::agent::state::unidentified::Means;
use crate::discovery::{Connection, Found, Search, Sockets, Wanted};

impl<K: Kernel> Agent<K> {
    /// Pods of this node that have an address and no endpoint, although they may have an interface.
    pub fn unprotected(&self) -> impl Iterator<Item = &Pod> {
        self.without_endpoint().filter(|pod| !self.is_disconnected(pod))
    }

    /// Pods of this node whose interface is gone without a DEL: a pod can delete its own. They reach nobody, so they need no
    /// protection until a search finds an interface of theirs again.
    pub fn disconnected(&self) -> impl Iterator<Item = &Pod> {
        self.without_interface().filter(|pod| self.is_disconnected(pod))
    }

    fn is_disconnected(&self, pod: &Pod) -> bool {
        self.registry.gone().any(|record| record.is_of(pod))
    }

    /// Pods of this node that have an address and no endpoint.
    fn without_endpoint(&self) -> impl Iterator<Item = &Pod> {
        self.without_interface().filter(|pod| !pod.addresses().is_empty())
    }

    /// Pods of this node that have no endpoint, but may have an interface: also those whose address the API does not report yet.
    fn without_interface(&self) -> impl Iterator<Item = &Pod> {
        let attached: BTreeSet<&ObjectName> = self
            .state
            .endpoints()
            .filter(|endpoint| self.state.pod_of(endpoint).is_some())
            .map(|endpoint| &endpoint.pod)
            .collect();
        let local = self.adoption.local.iter().filter_map(|name| self.state.pod(name));
        local.filter(move |pod| {
            !pod.host_network
                && !matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed)
                && !attached.contains(&pod.name)
                && self.adoption.ended.get(&pod.name) != Some(&pod.uid)
        })
    }

    /// The pods and interfaces to search for; none until every kind is listed.
    pub fn wanted(&mut self) -> Search {
        if !self.freshness.missing().is_empty() {
            return Search::default();
        }
        let state = &self.state;
        self.adoption.local.retain(|name| state.pod(name).is_some());
        self.adoption.ended.retain(|name, uid| state.pod(name).is_some_and(|pod| pod.uid == *uid));
        self.registry.retain_gone(|record| {
            let pod = state.pod(&record.endpoint().pod);
            pod.is_some_and(|pod| record.is_of(pod))
        });
        let uids = |pod: &Pod| {
            let both = [&pod.uid, &pod.static_uid].into_iter();
            both.filter(|uid| !uid.is_empty()).cloned().collect()
        };
        let interfaces: BTreeSet<IfIndex> =
            self.unidentified().map(|(ifindex, _)| ifindex).collect();
        // Without an interface that may be theirs, pods without an address have none yet.
        let is_wanted = |pod: &&Pod| !pod.addresses().is_empty() || !interfaces.is_empty();
        let pods = self.without_interface().filter(is_wanted).map(|pod| Wanted {
            pod: pod.name.clone(),
            uids: uids(pod),
            addresses: pod.addresses().to_vec(),
        });
        let pods = pods.collect();
        let is_unread = |ifindex: IfIndex| {
            matches!(self.adoption.detached.get(&ifindex), Some(None))
                || self.detached.uncorrected.contains_key(&ifindex)
        };
        let known = self.registry.records().filter(|record| is_unread(record.ifindex()));
        let known = known.map(|record| record.add().clone()).collect();
        Search { pods, interfaces, known }
    }

    /// Whether the first update of the maps has to wait for a search, because it could cut off a running pod.
    pub(in crate::agent) fn must_search(&self) -> bool {
        !self.adoption.has_searched
            && (self.adoption.node.is_some() || !self.adoption.detached.is_empty())
    }

    /// Makes endpoints of the pods that a search has found.
    pub fn adopt(&mut self, found: Vec<Found>, now: Instant) {
        self.adoption.has_searched = true;
        for connections in self.adoption.detached.values_mut() {
            connections.get_or_insert_default();
        }
        for Found { add, sockets } in found {
            let ifindex = IfIndex(add.host_ifindex);
            if self.registry.find(&add.attachment).is_none() {
                let pod = ObjectName::new(&add.pod.namespace, &add.pod.name);
                let is_wanted = self.without_interface().any(|wanted| wanted.name == pod);
                let is_taken = self.registry.at(ifindex).is_some();
                if !is_wanted || is_taken {
                    continue;
                }
                if self.unidentified.is_blocked(ifindex) {
                    self.identify(add, &sockets, now);
                    continue;
                }
                self.register(add);
            }
            self.correct(ifindex, &sockets);
            if let Some(known) = self.adoption.detached.get_mut(&ifindex) {
                *known = Some(sockets.connections);
            }
        }
    }

    /// Makes a blocked interface an endpoint, as its ADD would. The pod has been closed since its interface appeared.
    fn identify(&mut self, add: netpol_proto::Add, sockets: &Sockets, now: Instant) {
        let ifindex = IfIndex(add.host_ifindex);
        self.unidentified.means = Means::Links;
        let flows = flows(ifindex, &sockets.connections);
        if let Err(error) = self.kernel.add_flows(&flows) {
            error!(%ifindex, %error, "connections of a pod that nobody has announced are not known");
        }
        // Its programs are attached, and no later plugin runs. An error is logged; the search goes on.
        let add = netpol_proto::Add { is_unshaped: true, ..add };
        if let Ok(ifindex) = self.begin_add(add, now) {
            info!(%ifindex, "interface identified without an ADD");
        }
    }

    /// Makes a found interface an endpoint.
    fn register(&mut self, mut add: netpol_proto::Add) {
        let ifindex = IfIndex(add.host_ifindex);
        if let Some(endpoint) = self.map_state.endpoints.get_mut(&ifindex) {
            // The maps hold it, but its record was lost: it is the same endpoint, not another one.
            if add.network.is_empty() && !endpoint.container_id.is_empty() {
                add.attachment.container_id = endpoint.container_id.to_string();
            } else {
                endpoint.container_id = Arc::from(add.attachment.container_id.as_str());
            }
        }
        let pod_end = self.read_pod_end(ifindex);
        let endpoint = self.registry.insert(add, pod_end);
        info!(pod = %endpoint.pod, %ifindex, container = %endpoint.container_id, "running pod found");
        self.apply_delta(Delta::UpsertEndpoint(endpoint));
        self.adoption.expect(ifindex);
    }

    /// Corrects the connections of a pod whose programs others had removed. `sockets` are those that it has now.
    fn correct(&mut self, ifindex: IfIndex, sockets: &Sockets) {
        let Some(since) = self.detached.uncorrected.remove(&ifindex) else { return };
        let flows = flows(ifindex, &sockets.connections);
        // The time of the last packet in a flow is written once in this time.
        let since = Nanos(since.0.saturating_sub(flow::REFRESH_NS));
        match self.kernel.correct_flows(ifindex, since, &flows, &sockets.udp_ports) {
            Ok(n_corrected) => {
                info!(%ifindex, n_connections = flows.len(), n_corrected, "connections that began without programs are judged again");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                error!(%ifindex, error, "connections that began without programs are not judged again");
            }
        }
    }

    /// Attaches programs to endpoints that have none and whose policy is in force. Replaces the programs of another version
    /// when there is no such endpoint left.
    pub(in crate::agent) fn attach_detached(&mut self) {
        if self.is_stale() || !self.freshness.missing().is_empty() {
            return;
        }
        let map_state = &self.map_state;
        let ready: Vec<_> = self
            .adoption
            .detached
            .extract_if(.., |ifindex, connections| {
                connections.is_some() && map_state.endpoints.contains_key(ifindex)
            })
            .collect();
        for (ifindex, connections) in ready {
            let flows = flows(ifindex, &connections.unwrap_or_default());
            let attached =
                self.kernel.add_flows(&flows).and_then(|()| self.kernel.attach_pod(ifindex));
            let pod = self.state.endpoint(ifindex).map(|endpoint| endpoint.pod.to_string());
            match attached {
                Ok(()) => {
                    self.migrations.expect(ifindex);
                    self.exits.open(ifindex);
                    info!(pod, %ifindex, n_connections = flows.len(), "running pod protected");
                }
                Err(error) => {
                    error!(pod, %ifindex, %error, "running pod not protected");
                    self.remove_endpoint(ifindex);
                }
            }
        }
        if self.is_primed && self.adoption.detached.is_empty() && self.kernel.has_predecessor() {
            match self.kernel.retire_predecessor() {
                Ok(()) => info!("maps and programs of another version removed"),
                Err(error) => {
                    warn!(%error, "maps and programs of another version not removed");
                }
            }
        }
    }

    /// Records that a DEL removes the interface of a pod: the pod is not searched for again.
    pub(in crate::agent) fn record_end(&mut self, ifindex: IfIndex) {
        let endpoint = self.state.endpoint(ifindex);
        if let Some(pod) = endpoint.and_then(|endpoint| self.state.pod_of(endpoint)) {
            self.adoption.ended.insert(pod.name.clone(), Arc::clone(&pod.uid));
        }
    }
}

/// Flow entries for connections that are older than the programs. The next packet of each gets a verdict for the direction in
/// which the connection began.
fn flows(ifindex: IfIndex, connections: &[Connection]) -> Vec<(FlowKey, FlowValue)> {
    let now = monotonic_now();
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
        // Never the current epoch, which every update of the maps raises: the next packet gets a new verdict.
        epoch: Epoch(0),
        rule: RuleId::NONE,
        origin: origin.to_wire(),
        state: flow::OPEN,
        marks: 0,
        pad: 0,
        redirect: IfIndex(0),
    };
    (key, value)
}
