//! What this node publishes: its pods with addresses that the API does not report yet and that policies of any node are about, and which
//! ClusterNetworkPolicies are in force.
//!
//! In: changes of the cluster. Out: both, for the tasks that [publish](crate::agent::publisher) them. Must not: wait for these.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use netpol_kube::policy_status::{Generation, InForce};
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::model::{ClusterPolicy, ObjectName, PodPhase};
use netpol_policy::resolve::{PolicyKind, is_any_peer};
use netpol_policy::store::{Changes, ClusterState, Endpoint, LabelClassId, PublishedPod};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Agent;

/// The pods that are to be published, and what has become of it.
#[derive(Debug)]
pub(in crate::agent) struct Publishing {
    wanted: watch::Sender<BTreeSet<PublishedPod>>,
    outcome: watch::Receiver<PublishingOutcome>,
    /// The pods may have changed.
    is_stale: bool,
    /// The ClusterNetworkPolicies that are in force.
    in_force: watch::Sender<InForce>,
    /// The policies may have changed.
    is_in_force_stale: bool,
    /// Whether a policy selects the pods of a label class as peers. Kept until policies change.
    are_peers: HashMap<LabelClassId, bool>,
}

/// What has become of publishing addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishingOutcome {
    /// Why nothing is published and nothing believed; `None` if it is.
    pub off: Option<String>,
    /// Writes that the API server accepted.
    pub n_writes: u64,
    /// Their length in bytes.
    pub n_bytes: u64,
    /// Writes that failed.
    pub n_failures: u64,
    /// The failure of the latest write.
    pub error: Option<String>,
}

impl Default for PublishingOutcome {
    fn default() -> Self {
        let off = Some("the API server has not been asked yet".to_owned());
        Self { off, n_writes: 0, n_bytes: 0, n_failures: 0, error: None }
    }
}

/// The other ends of [`Publishing`].
#[derive(Debug)]
pub(in crate::agent) struct PublishingTask {
    pub(in crate::agent) wanted: watch::Receiver<BTreeSet<PublishedPod>>,
    pub(in crate::agent) outcome: watch::Sender<PublishingOutcome>,
    pub(in crate::agent) in_force: watch::Receiver<InForce>,
}

impl PublishingTask {
    /// Says that nothing will be published.
    pub(in crate::agent) fn set_off(&self, reason: &str) {
        self.outcome.send_modify(|outcome| outcome.off = Some(reason.to_owned()));
    }
}

impl Default for Publishing {
    fn default() -> Self {
        Self::new().0
    }
}

impl Publishing {
    pub(in crate::agent) fn new() -> (Self, PublishingTask) {
        let (wanted_in, wanted) = watch::channel(BTreeSet::new());
        let (outcome_in, outcome) = watch::channel(PublishingOutcome::default());
        let (in_force_in, in_force) = watch::channel(InForce::new());
        let this = Self {
            wanted: wanted_in,
            outcome,
            is_stale: true,
            in_force: in_force_in,
            is_in_force_stale: true,
            are_peers: HashMap::default(),
        };
        (this, PublishingTask { wanted, outcome: outcome_in, in_force })
    }

    /// Records that the cluster has changed.
    pub(super) fn follow(&mut self, changes: &Changes) {
        let are_others = changes.everything
            || !changes.policies.is_empty()
            || !changes.cluster_policies.is_empty()
            || !changes.namespaces.is_empty();
        if are_others {
            self.are_peers.clear();
        }
        for label_class in &changes.label_classes {
            self.are_peers.remove(label_class);
        }
        self.is_stale |= are_others || !changes.endpoints.is_empty();
        self.is_in_force_stale |= !changes.cluster_policies.is_empty() || changes.everything;
    }

    /// Records that other rules than before exceed the capacity of the maps.
    pub(in crate::agent) fn follow_capacity(&mut self) {
        self.is_in_force_stale = true;
    }

    /// Number of pods that are to be published.
    pub(in crate::agent) fn n_wanted(&self) -> usize {
        self.wanted.borrow().len()
    }

    /// What has become of it.
    pub(in crate::agent) fn outcome(&self) -> PublishingOutcome {
        self.outcome.borrow().clone()
    }

    fn is_peer(&mut self, state: &ClusterState, id: LabelClassId) -> bool {
        *self.are_peers.entry(id).or_insert_with(|| {
            state.label_class(id).is_some_and(|label_class| is_any_peer(state, label_class))
        })
    }
}

impl<K: Kernel> Agent<K> {
    /// Wants the pods published whose addresses only this node knows, if a policy selects them as peers.
    pub(in crate::agent) fn publish(&mut self) {
        if !self.publishing.is_stale || !self.freshness.missing().is_empty() {
            return;
        }
        self.publishing.is_stale = false;
        let mut pods: BTreeMap<ObjectName, PublishedPod> = BTreeMap::new();
        for endpoint in self.state.endpoints() {
            let Some(uid) = unreported(&self.state, endpoint) else { continue };
            let label_class =
                self.state.pod(&endpoint.pod).and_then(|pod| self.state.label_class_of(pod));
            let is_peer = label_class.is_some_and(|id| self.publishing.is_peer(&self.state, id));
            if !is_peer {
                continue;
            }
            let published = pods.entry(endpoint.pod.clone()).or_insert_with(|| PublishedPod {
                pod: endpoint.pod.clone(),
                uid,
                addresses: Vec::new(),
            });
            published.addresses.extend(&endpoint.addresses);
        }
        let pods: BTreeSet<PublishedPod> = pods.into_values().collect();
        self.publishing.wanted.send_if_modified(|wanted| {
            let is_other = *wanted != pods;
            *wanted = pods;
            is_other
        });
    }
}

impl<K: Kernel> Agent<K> {
    /// Reports which ClusterNetworkPolicies are in force, if that may have changed and the maps are up to date.
    pub(in crate::agent) fn report_in_force(&mut self) {
        let is_current = self.freshness.missing().is_empty() && !self.is_stale();
        if !self.publishing.is_in_force_stale || !is_current {
            return;
        }
        self.publishing.is_in_force_stale = false;
        let left_out = self.left_out.keys().map(|rule| &rule.policy);
        let left_out = left_out.filter(|of| of.kind == PolicyKind::ClusterNetworkPolicy);
        let exceeding: BTreeSet<&Arc<str>> = left_out.map(|of| &of.name.name).collect();
        let of = |policy: &ClusterPolicy| {
            let (uid, generation) = (Arc::clone(&policy.uid), policy.generation);
            let is_over_capacity = exceeding.contains(&policy.name);
            (Arc::clone(&policy.name), Generation { uid, generation, is_over_capacity })
        };
        let now: InForce = self.state.cluster_policies().map(of).collect();
        self.publishing.in_force.send_if_modified(|in_force| {
            let is_other = *in_force != now;
            *in_force = now;
            is_other
        });
    }
}

/// The uid of the endpoint's pod, if the API knows the pod and reports no address of it.
fn unreported(state: &ClusterState, endpoint: &Endpoint) -> Option<Arc<str>> {
    let pod = state.pod_of(endpoint)?;
    let is_silent = pod.reported_addresses.is_empty()
        && !pod.host_network
        && !pod.uid.is_empty()
        && !matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed);
    (is_silent && !endpoint.addresses.is_empty()).then(|| Arc::clone(&pod.uid))
}

#[cfg(test)]
mod tests {
    use netpol_policy::compile::{Capacities, Compiled, Shared};
    use netpol_policy::model::Object;
    use netpol_policy::source::SourceUpdate;
    use netpol_policy::store::Delta;
    use netpol_proto::{Add, PodRef, Request};

    use super::*;
    use crate::agent::tests::{Fixture, attachment, fixture, full_lists, pod, update};

    fn objects(text: &str) -> SourceUpdate {
        let manifests = netpol_policy::manifests::parse("test.yaml", text);
        let objects = manifests.objects.into_iter();
        let deltas = objects.map(|sourced| Delta::Upsert(sourced.object)).collect();
        SourceUpdate { deltas, ..SourceUpdate::default() }
    }

    /// Pod a of namespace x, without an address in the API.
    fn silent() -> SourceUpdate {
        let Delta::Upsert(Object::Pod(mut pod)) = pod("a") else { panic!("no pod") };
        pod.reported_addresses.clear();
        update(Delta::Upsert(Object::Pod(pod)))
    }

    const FROM_ALL_PODS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: p, namespace: y }
spec: { podSelector: {}, ingress: [{ from: [{ namespaceSelector: {} }] }] }
";

    fn with_endpoint() -> (Fixture, PublishingTask) {
        with_endpoint_within(Capacities::default())
    }

    fn with_endpoint_within(capacities: Capacities) -> (Fixture, PublishingTask) {
        let mut fixture = fixture();
        fixture.agent.compiled = Compiled::default().within(capacities);
        let (publishing, task) = Publishing::new();
        fixture.agent.publishing = publishing;
        drop(fixture.agent.update(full_lists()));
        drop(fixture.agent.update(silent()));
        drop(fixture.call(Request::Add(Add {
            attachment: attachment(),
            network: "net".to_owned(),
            netns: "/run/netns/x".to_owned(),
            host_ifname: "veth7".to_owned(),
            host_ifindex: 7,
            pod: PodRef {
                namespace: "x".to_owned(),
                name: "a".to_owned(),
                uid: Some("1".to_owned()),
            },
            addresses: vec!["10.0.0.7".parse().unwrap()],
            is_unshaped: true,
        })));
        (fixture, task)
    }

    fn n_wanted(fixture: &mut Fixture, task: &PublishingTask) -> usize {
        fixture.agent.publish();
        task.wanted.borrow().len()
    }

    #[test]
    fn a_pod_is_published_while_a_policy_selects_it_as_a_peer_and_the_api_reports_no_address() {
        let (mut fixture, task) = with_endpoint();
        assert_eq!(n_wanted(&mut fixture, &task), 0, "no policy is about it");
        drop(fixture.agent.update(objects(FROM_ALL_PODS)));
        assert_eq!(n_wanted(&mut fixture, &task), 1);
        let published = task.wanted.borrow().first().cloned().unwrap();
        assert_eq!((published.pod, &*published.uid), (ObjectName::new("x", "a"), "1"));
        assert_eq!(published.addresses, ["10.0.0.7".parse::<std::net::IpAddr>().unwrap()]);
        let from_own_pods = FROM_ALL_PODS.replace("namespaceSelector", "podSelector");
        drop(fixture.agent.update(objects(&from_own_pods)));
        assert_eq!(n_wanted(&mut fixture, &task), 0, "it is about the pods of y");
        drop(fixture.agent.update(objects(FROM_ALL_PODS)));
        assert_eq!(n_wanted(&mut fixture, &task), 1);
        drop(fixture.agent.update(update(pod("a"))));
        assert_eq!(n_wanted(&mut fixture, &task), 0, "the API reports an address");
    }

    #[test]
    fn nothing_is_published_before_every_kind_is_listed() {
        let mut fixture = fixture();
        let (publishing, task) = Publishing::new();
        fixture.agent.publishing = publishing;
        drop(fixture.agent.update(silent()));
        drop(fixture.agent.update(objects(FROM_ALL_PODS)));
        assert_eq!(n_wanted(&mut fixture, &task), 0);
        assert!(fixture.agent.publishing.is_stale);
    }

    #[test]
    fn a_cluster_policy_is_in_force_when_the_maps_follow_it() {
        let (mut fixture, task) = with_endpoint();
        drop(fixture.agent.update(objects(
            "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: { name: p, uid: u, generation: 3 }
spec:
  { tier: Admin, priority: 1, subject: { namespaces: {} }, ingress: [{ action: Deny, from: [{ namespaces: {} }] }] }
",
        )));
        fixture.agent.report_in_force();
        assert_eq!(*task.in_force.borrow(), InForce::new(), "the maps are behind");
        fixture.agent.sync();
        fixture.agent.report_in_force();
        let expected = Generation { uid: Arc::from("u"), generation: 3, is_over_capacity: false };
        assert_eq!(*task.in_force.borrow(), InForce::from([(Arc::from("p"), expected)]));
    }

    /// `Programmed` was true for a policy of which no rule fitted into the maps.
    #[test]
    fn a_cluster_policy_over_capacity_is_reported_as_such_until_it_fits() {
        let few = Capacities { n_prefixes: Shared::undivided(4), ..Capacities::default() };
        let (mut fixture, task) = with_endpoint_within(few);
        let mut is_over_capacity = |n_networks: u8| {
            let networks: Vec<_> = (0..n_networks).map(|n| format!("192.168.{n}.0/24")).collect();
            drop(fixture.agent.update(objects(&format!(
                "
apiVersion: v1
kind: Namespace
metadata: {{ name: x }}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{ name: p, uid: u, generation: {n_networks} }}
spec:
  tier: Admin
  priority: 1
  subject: {{ namespaces: {{}} }}
  egress: [{{ action: Deny, to: [{{ networks: [{}] }}] }}]
",
                networks.join(", ")
            ))));
            fixture.agent.sync();
            fixture.agent.report_in_force();
            task.in_force.borrow().get("p").map(|of| (of.generation, of.is_over_capacity))
        };
        assert_eq!(is_over_capacity(8), Some((8, true)));
        assert_eq!(is_over_capacity(1), Some((1, false)));
    }
}
