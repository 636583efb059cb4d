//! Findings of this node, as diagnostics on the objects concerned: rules and Services that exceed the capacity of its maps, pods
//! whose interface is gone, and programs that others have removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpol_policy::compile;
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::model::{Code, Diagnostic, Kind, ObjectName, ObjectRef, PodPhase};

use super::state::Agent;

/// How long the list of nodes is used, because it costs a look at every pod.
const NODES_AGE: Duration = Duration::from_secs(10);

impl<K: Kernel> Agent<K> {
    /// The objects whose diagnostics [`Agent::sync`] has changed since the last call.
    pub fn take_found(&mut self) -> Vec<ObjectRef> {
        std::mem::take(&mut self.found)
    }

    /// The place of this node among those whose agents find the same in an object. The first one writes the Event. The node of a
    /// pod is the first for it, because only its agent knows of the pod's interface. The other nodes are those with running pods.
    pub fn rank(&mut self, object: &ObjectRef, now: Instant) -> u32 {
        let Some(own) = self.adoption.node.clone() else { return 0 };
        let pod = self.state.pod(&object.name).filter(|_| object.kind == Kind::Pod);
        let node_of_pod = pod.map(|pod| Arc::clone(&pod.node)).filter(|node| !node.is_empty());
        if node_of_pod.as_ref() == Some(&own) {
            return 0;
        }
        if self.nodes.as_ref().is_none_or(|(read, _)| now >= *read + NODES_AGE) {
            let running = self.state.pods().filter(|pod| pod.phase == PodPhase::Running);
            self.nodes = Some((now, running.map(|pod| Arc::clone(&pod.node)).collect()));
        }
        let nodes = self.nodes.iter().flat_map(|(_, nodes)| nodes).map(|node| &**node);
        netpol_kube::rank(object, &own, nodes).saturating_add(node_of_pod.is_some().into())
    }

    /// Records the rules and Services that exceed the capacity of the maps, the pods whose interface is gone, and removed programs.
    pub(super) fn record_findings(&mut self) {
        let left_out = Arc::clone(self.compiled.left_out());
        let disconnected: BTreeSet<ObjectName> =
            self.disconnected().map(|pod| pod.name.clone()).collect();
        let refused = self.compiled.refused();
        let is_same = left_out == self.left_out && *refused == self.refused;
        let is_reported = !std::mem::take(&mut self.detached.has_news);
        if is_same && disconnected == self.disconnected && is_reported {
            return;
        }
        let mut diagnostics = compile::diagnostics(&left_out, refused, self.compiled.capacities());
        self.refused.clone_from(refused);
        diagnostics.extend(disconnected.iter().map(|pod| {
            Diagnostic {
                code: Code::Disconnected,
                object: ObjectRef { kind: Kind::Pod, name: pod.clone() },
                field: String::new(),
                message:
                    "its interface was deleted while it runs, so it reaches nobody; restart the pod"
                        .to_owned(),
            }
        }));
        diagnostics.extend(self.detached.findings().map(|object| self.detached_finding(object)));
        if left_out != self.left_out {
            self.publishing.follow_capacity();
        }
        (self.left_out, self.disconnected) = (left_out, disconnected);
        let changed = self.diagnostics.set_of_node(diagnostics);
        self.log_diagnostics(&changed);
        self.found.extend(changed);
    }

    /// The finding that others have removed programs from a pod's interface, or from an uplink of this node.
    fn detached_finding(&self, object: &ObjectRef) -> Diagnostic {
        let device = if object.kind == Kind::Pod { "the pod's interface" } else { "an uplink" };
        let node = self.adoption.node.as_deref().unwrap_or("(unnamed)");
        Diagnostic {
            code: Code::ProgramsDetached,
            object: object.clone(),
            field: String::new(),
            message: format!(
                "another program of node {node} has removed the programs that enforce policies from {device}; they are \
                 attached again, and connections that began meanwhile are judged again"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use netpol_datapath::netlink::Devices;
    use netpol_proto::Response;

    use super::super::answers::routes::{self, Detail};
    use super::super::answers::status::Protection;
    use super::super::state::registry::Registry;
    use super::super::tests::{FakeKernel, fixture, full_lists, pod, update};
    use super::*;
    use netpol_policy::compile::{Capacities, Compiled, Shared};
    use netpol_policy::source::SourceUpdate;
    use netpol_policy::store::Delta;

    /// A policy that isolates pod a, with one rule of `n_blocks` address blocks.
    fn policy_with_blocks(name: &str, n_blocks: usize) -> SourceUpdate {
        let blocks: Vec<_> =
            (0..n_blocks).map(|n| format!("{{ ipBlock: {{ cidr: 192.168.{n}.0/24 }} }}")).collect();
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name}, namespace: x }}\n\
             spec: {{ podSelector: {{}}, ingress: [{{ from: [{}] }}] }}\n",
            blocks.join(", ")
        );
        let manifests = netpol_policy::manifests::parse("test.yaml", &text);
        let objects = manifests.objects.into_iter();
        let deltas = objects.map(|sourced| Delta::Upsert(sourced.object)).collect();
        SourceUpdate { deltas, ..SourceUpdate::default() }
    }

    #[test]
    fn a_policy_over_capacity_is_reported_and_does_not_delay_others() {
        let mut fixture = fixture();
        let few = Capacities { n_prefixes: Shared::undivided(4), ..Capacities::default() };
        fixture.agent.compiled = Compiled::default().within(few);
        drop(fixture.agent.update(full_lists()));
        drop(fixture.agent.update(update(pod("a"))));
        drop(fixture.agent.update(policy_with_blocks("large", 4)));
        drop(fixture.agent.update(policy_with_blocks("small", 2)));
        assert_eq!(fixture.add().try_recv(), Ok(Response::Ok));
        let large = ObjectRef { kind: Kind::NetworkPolicy, name: ObjectName::new("x", "large") };
        assert_eq!(fixture.agent.take_found(), std::slice::from_ref(&large));
        assert_eq!(fixture.agent.take_found(), []);
        let status = fixture.agent.describe();
        assert!(status.is_in_force);
        let left_out: Vec<_> =
            status.policies.iter().map(|policy| policy.left_out.clone()).collect();
        assert_eq!(left_out, [vec!["ingress[0]".to_owned()], Vec::new()]);
        assert_eq!(status.diagnostics.len(), 1, "{:?}", status.diagnostics);
        assert_eq!(fixture.agent.kernel.maps.prefixes.len(), 2);

        // One prefix is reserved, and a block in two lists counts twice.
        drop(fixture.agent.update(policy_with_blocks("large", 1)));
        fixture.agent.sync();
        assert_eq!(fixture.agent.take_found(), [large]);
        assert_eq!(fixture.agent.describe().diagnostics, Vec::<String>::new());
        assert_eq!(fixture.agent.kernel.maps.prefixes.len(), 2);
    }

    /// `ip link delete eth0` in a pod with `CAP_NET_ADMIN` kept the agent unready for good.
    #[test]
    fn a_pod_that_deletes_its_own_interface_is_named_and_the_agent_stays_ready() {
        let mut fixture = fixture();
        fixture.agent = fixture.agent.on_node(Some(Arc::from("n")));
        drop(fixture.agent.update(full_lists()));
        drop(fixture.agent.update(update(pod("a"))));
        fixture.agent.adopt(Vec::new(), fixture.now);
        drop(fixture.add());
        fixture.agent.set_devices(Devices::default(), |_| false, fixture.now);
        fixture.agent.sync();
        let object = ObjectRef { kind: Kind::Pod, name: ObjectName::new("x", "a") };
        assert_eq!(fixture.agent.take_found(), [object]);
        let protection = |agent: &Agent<FakeKernel>| agent.describe().endpoints[0].protection;
        let is_ready = |agent: &Agent<FakeKernel>| {
            routes::unreadiness(&agent.describe(), Detail::Names).is_empty()
        };
        assert_eq!(protection(&fixture.agent), Protection::Disconnected);
        assert!(is_ready(&fixture.agent));
        // A search goes on, in case that somebody connects the pod again.
        assert_eq!(fixture.agent.wanted().pods.len(), 1);
        let records = fixture.dir.path().join("endpoints.json");
        let again = Registry::open(&records, |_| Some("veth7".to_owned())).unwrap();
        assert_eq!((again.records().count(), again.gone().count()), (0, 1), "after a restart too");
        assert_eq!(fixture.add().try_recv(), Ok(Response::Ok));
        assert_eq!(protection(&fixture.agent), Protection::Ready);
        assert_eq!(fixture.agent.describe().diagnostics, Vec::<String>::new());
    }
}
