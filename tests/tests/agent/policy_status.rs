//! The conditions of ClusterNetworkPolicies, written by one of several agents.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a harness fails the test")]

use std::sync::Arc;
use std::time::Duration;

use netpol_agent::agent::policy_status::{Periods, run};
use netpol_kube::Access;
use netpol_kube::policy_status::{ELECTION, Generation, InForce};
use netpol_kube::published::NAMESPACE;
use netpol_lab::fake_api::FakeApi;
use netpol_lab::watched::DEADLINE;
use netpol_policy::model::Kind;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const PERIODS: Periods = Periods {
    candidate: Duration::from_millis(100),
    elected: Duration::from_millis(100),
    lease: Duration::from_secs(1),
    report: Duration::from_millis(5),
};

/// One agent's reports.
struct Node {
    name: &'static str,
    in_force: watch::Sender<InForce>,
    task: JoinHandle<()>,
}

struct Cluster {
    api: FakeApi,
    nodes: Vec<Node>,
}

fn policy(priority: u32) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": { "name": "p" },
        "spec": { "tier": "Admin", "priority": priority, "subject": { "namespaces": {} } },
    })
}

/// Whether all rules of the policy fit into the maps of a node.
#[derive(Clone, Copy)]
enum Capacity {
    Kept,
    Exceeded,
}

impl Cluster {
    async fn new(nodes: &[&'static str]) -> Self {
        let api = FakeApi::start().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, api.kubeconfig(&json!({}))).unwrap();
        let mut cluster = Self { api, nodes: Vec::new() };
        for name in nodes {
            cluster.api.put(json!({
                "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
            }));
            let access = Access::open(Some(&kubeconfig)).await.unwrap();
            let (in_force, receiver) = watch::channel(InForce::new());
            let task = tokio::spawn(run(access, Arc::from(*name), receiver, PERIODS));
            cluster.nodes.push(Node { name, in_force, task });
        }
        cluster
    }

    /// The policy as the server has it is in force on this node.
    fn put_in_force(&self, node: &str) {
        self.report(node, Capacity::Kept);
    }

    fn report(&self, node: &str, capacity: Capacity) {
        let policy = self.policy();
        let generation = Generation {
            uid: Arc::from(policy["metadata"]["uid"].as_str().unwrap()),
            generation: policy["metadata"]["generation"].as_i64().unwrap(),
            is_over_capacity: matches!(capacity, Capacity::Exceeded),
        };
        let node = self.nodes.iter().find(|known| known.name == node).unwrap();
        node.in_force.send_replace(InForce::from([(Arc::from("p"), generation)]));
    }

    fn policy(&self) -> Value {
        self.api.get(Kind::ClusterNetworkPolicy, "", "p").unwrap()
    }

    fn condition(&self, kind: &str) -> Value {
        let policy = self.policy();
        let conditions = policy.pointer("/status/conditions").and_then(Value::as_array).cloned();
        let mut conditions = conditions.unwrap_or_default().into_iter();
        conditions.find(|condition| condition["type"] == kind).unwrap_or_default()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let reached = timeout(DEADLINE, async {
            while !is_so(self) {
                sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(reached.await.is_ok(), "not {what}: {}", self.policy());
    }

    async fn until_programmed(&self, status: &str, message: &str) {
        self.until(message, |cluster| {
            let condition = cluster.condition("Programmed");
            condition["status"] == status && condition["message"] == message
        })
        .await;
    }

    fn elected(&self) -> Option<String> {
        let lease = self.api.object("Lease", NAMESPACE, ELECTION)?;
        Some(lease["spec"]["holderIdentity"].as_str()?.to_owned())
    }

    /// Number of requests with this method and end of the path.
    fn n_asked(&self, method: &str, end: &str) -> usize {
        let asked = self.api.asked();
        asked.iter().filter(|asked| asked.method == method && asked.path.ends_with(end)).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_count_the_nodes_and_name_those_that_are_behind() {
    let cluster = Cluster::new(&["n1", "n2"]).await;
    cluster.api.serve_cluster_policies(&["v1alpha2"]);
    cluster.api.put(policy(1)).unwrap();
    cluster.put_in_force("n1");
    cluster.put_in_force("n2");
    cluster.until_programmed("True", "in force on 2 of 2 nodes").await;
    let accepted = cluster.condition("Accepted");
    assert_eq!((&accepted["status"], &accepted["observedGeneration"]), (&json!("True"), &json!(1)));
    let since = accepted["lastTransitionTime"].clone();
    assert!(since.as_str().is_some_and(|text| text.ends_with('Z')), "{accepted}");

    cluster.api.put(policy(2)).unwrap();
    cluster.put_in_force("n1");
    cluster.until_programmed("False", "in force on 1 of 2 nodes; not on n2").await;
    assert_eq!(cluster.condition("Programmed")["observedGeneration"], 2);
    cluster.put_in_force("n2");
    cluster.until_programmed("True", "in force on 2 of 2 nodes").await;
    assert_eq!(cluster.condition("Accepted")["lastTransitionTime"], since);

    // Another policy of the same name begins with the same generation.
    cluster.api.delete(Kind::ClusterNetworkPolicy, "", "p").unwrap();
    cluster.api.put(policy(2)).unwrap();
    cluster.put_in_force("n1");
    cluster.until_programmed("False", "in force on 1 of 2 nodes; not on n2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_not_understood_is_not_accepted() {
    let cluster = Cluster::new(&["n1"]).await;
    cluster.api.serve_cluster_policies(&["v1alpha2"]);
    let mut unknown = policy(1);
    unknown["spec"]["tier"] = json!("Middle");
    cluster.api.put(unknown).unwrap();
    cluster.put_in_force("n1");
    cluster.until("refused", |cluster| cluster.condition("Accepted")["status"] == "False").await;
    let accepted = cluster.condition("Accepted");
    assert!(accepted["message"].as_str().unwrap().contains("spec.tier"), "{accepted}");
    assert_eq!(cluster.condition("Programmed")["status"], "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_takes_over_when_the_elected_one_dies() {
    let cluster = Cluster::new(&["n1", "n2", "n3"]).await;
    cluster.api.serve_cluster_policies(&["v1alpha2"]);
    cluster.api.put(policy(1)).unwrap();
    for node in ["n1", "n2", "n3"] {
        cluster.put_in_force(node);
    }
    cluster.until_programmed("True", "in force on 3 of 3 nodes").await;
    let first = cluster.elected().unwrap();
    let dead = cluster.nodes.iter().find(|node| node.name == first).unwrap();
    dead.task.abort();
    cluster.api.put(policy(2)).unwrap();
    for node in cluster.nodes.iter().filter(|node| node.name != first) {
        cluster.put_in_force(node.name);
    }
    let message = format!("in force on 2 of 3 nodes; not on {first}");
    cluster.until_programmed("False", &message).await;
    assert_ne!(cluster.elected().unwrap(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_while_nothing_changes_but_the_lease_of_the_elected_agent() {
    let cluster = Cluster::new(&["n1", "n2"]).await;
    cluster.api.serve_cluster_policies(&["v1alpha2"]);
    cluster.api.put(policy(1)).unwrap();
    cluster.put_in_force("n1");
    cluster.put_in_force("n2");
    cluster.until_programmed("True", "in force on 2 of 2 nodes").await;
    cluster.api.forget_asked();
    cluster.until("renewed", |cluster| cluster.n_asked("PUT", ELECTION) >= 5).await;
    assert_eq!(cluster.n_asked("PATCH", ""), 0);
    assert_eq!(cluster.n_asked("POST", ""), 0);
    let elected = cluster.elected().unwrap();
    assert!(["n1", "n2"].contains(&elected.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_exceeds_the_capacity_of_a_node_is_not_programmed() {
    let cluster = Cluster::new(&["n1", "n2"]).await;
    cluster.api.serve_cluster_policies(&["v1alpha2"]);
    cluster.api.put(policy(1)).unwrap();
    cluster.put_in_force("n1");
    cluster.report("n2", Capacity::Exceeded);
    let message = "in force on 1 of 2 nodes; rules exceed the capacity of the maps on n2";
    cluster.until_programmed("False", message).await;
    assert_eq!(cluster.condition("Programmed")["reason"], "OverCapacity");
    cluster.put_in_force("n2");
    cluster.until_programmed("True", "in force on 2 of 2 nodes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_kind_hears_nothing() {
    let cluster = Cluster::new(&["n1"]).await;
    let node = &cluster.nodes[0];
    // The kind goes while a policy is known.
    let generation = Generation { uid: Arc::from("u"), generation: 1, is_over_capacity: false };
    cluster.api.put(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" } }));
    assert_eq!(cluster.api.asked(), []);
    node.in_force.send_replace(InForce::from([(Arc::from("p"), generation)]));
    let looks = |cluster: &Cluster| cluster.n_asked("GET", "/apis/policy.networking.k8s.io");
    let looked = timeout(DEADLINE, async {
        while looks(&cluster) < 3 {
            sleep(Duration::from_millis(5)).await;
        }
    });
    looked.await.unwrap();
    assert_eq!(cluster.elected(), None);
    assert_eq!(cluster.n_asked("PATCH", "/status"), 0);
    node.task.abort();
}
