//! A watched API server: applies the updates of the watches, as the agent's event loop does.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a harness fails the test"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use netpol_kube::{Access, Keepalive, Options, spawn};
use netpol_policy::model::{Kind, ObjectName, Pod};
use netpol_policy::source::{DiagnosticIndex, Freshness, Health, SourceUpdate};
use netpol_policy::store::{ClusterState, Delta};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::fake_api::FakeApi;
use crate::settings::patience;

/// Deadline for a condition.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Polling interval while no update arrives.
const LOOK: Duration = Duration::from_millis(10);

/// A server, the watches on it, and their updates so far.
pub struct Watched {
    /// The server and its proxy.
    pub cluster: Cluster,
    /// The namespace of the test objects.
    pub namespace: String,
    /// The watches' credentials.
    pub access: Access,
    /// The store.
    pub state: ClusterState,
    /// Diagnostics of objects.
    pub diagnostics: DiagnosticIndex,
    /// Freshness of each kind.
    pub freshness: Freshness,
    /// Number of complete lists, by kind.
    pub n_lists: BTreeMap<Kind, usize>,
    /// Reported failures.
    pub errors: Vec<String>,
    /// Cancels the watches.
    pub cancel: CancellationToken,
    /// The tasks of the watches.
    pub tasks: JoinSet<()>,
    /// The kubeconfig.
    pub kubeconfig: PathBuf,
    updates: mpsc::Receiver<SourceUpdate>,
}

impl Watched {
    /// Watches the server that the environment selects, with the objects of [`fill`]; waits until they are known.
    pub async fn filled() -> Self {
        let cluster = Cluster::open().await.unwrap();
        Self::filled_at(cluster, Options::default()).await
    }

    /// Fills and watches a server; waits until the objects are known.
    pub async fn filled_at(cluster: Cluster, options: Options) -> Self {
        let namespace = cluster.name("shop");
        fill(&cluster, &namespace).await;
        let mut watched = Self::new(cluster, namespace, options).await;
        watched.until_listed().await;
        watched
    }

    /// Watches the server in this process with the objects of [`fill`] in the namespace `shop`; waits until they are known.
    pub async fn filled_in_process() -> Self {
        let mut watched = Self::in_process(filled().await, Options::default()).await;
        watched.until_listed().await;
        watched
    }

    /// Watches a server in this process, whatever the environment says.
    pub async fn in_process(api: FakeApi, options: Options) -> Self {
        Self::new(Cluster::in_process(api).unwrap(), "shop".to_owned(), options).await
    }

    /// Watches a server. Retry delays are short unless the options set them.
    pub async fn new(cluster: Cluster, namespace: String, options: Options) -> Self {
        Self::with_keepalive(cluster, namespace, options, Keepalive::default()).await
    }

    /// The same, with connections that are probed at other times.
    pub async fn with_keepalive(
        cluster: Cluster,
        namespace: String,
        options: Options,
        keepalive: Keepalive,
    ) -> Self {
        let kubeconfig = cluster.kubeconfig();
        let access = Access::open_with(Some(&kubeconfig), None, keepalive).await.unwrap();
        let is_as_usual = options.max_retry == Options::default().max_retry;
        let options = if is_as_usual {
            let (min_retry, max_retry) = (Duration::from_millis(10), Duration::from_millis(100));
            Options { min_retry, max_retry, ..options }
        } else {
            options
        };
        let (out, updates) = mpsc::channel(64);
        let cancel = CancellationToken::new();
        let tasks = spawn(&access, &options, &out, &cancel);
        Self {
            cluster,
            namespace,
            access,
            state: ClusterState::default(),
            diagnostics: DiagnosticIndex::default(),
            freshness: Freshness::default(),
            n_lists: BTreeMap::new(),
            errors: Vec::new(),
            cancel,
            tasks,
            kubeconfig,
            updates,
        }
    }

    /// The server in this process.
    pub fn api(&self) -> &FakeApi {
        self.cluster.as_in_process().expect("the server is not in this process")
    }

    /// Creates or changes an object.
    pub async fn put(&self, object: Value) {
        self.cluster.put(object).await.unwrap();
    }

    /// Deletes an object of the namespace.
    pub async fn delete(&self, kind: Kind, name: &str) {
        self.cluster.delete(kind, &self.namespace, name).await.unwrap();
    }

    /// A pod of the namespace, for [`Watched::put`].
    pub fn new_pod(&self, name: &str, address: &str) -> Value {
        pod(&self.namespace, name, address)
    }

    /// Applies updates until the condition holds.
    pub async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        self.until_within(DEADLINE, what, holds).await;
    }

    /// The same, with a deadline.
    pub async fn until_within(
        &mut self,
        limit: Duration,
        what: &str,
        holds: impl Fn(&Self) -> bool,
    ) {
        let deadline = tokio::time::Instant::now() + limit * patience();
        while !holds(self) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "timeout: {what}\nhealth: {:#?}\nfailures: {:#?}\npods: {:#?}",
                self.freshness,
                self.errors,
                self.state.pods().collect::<Vec<_>>(),
            );
            if let Ok(update) = tokio::time::timeout(LOOK, self.updates.recv()).await {
                self.apply(update.expect("the watches ended"));
            }
        }
    }

    /// Waits until every kind has been listed.
    pub async fn until_listed(&mut self) {
        self.until("every kind is listed", |w| w.freshness.missing().is_empty()).await;
    }

    /// Waits until all earlier pod events have been applied, by creating and deleting one more pod.
    pub async fn fence(&mut self) {
        self.put(self.new_pod("fence", "10.9.9.9")).await;
        self.until("the fence is there", |w| w.pod("fence").is_some()).await;
        self.delete(Kind::Pod, "fence").await;
        self.until("the fence is gone", |w| w.pod("fence").is_none()).await;
    }

    fn apply(&mut self, update: SourceUpdate) {
        self.diagnostics.apply(&update);
        self.freshness.apply(&update);
        for (kind, health) in &update.health {
            if let Health::Broken { error, .. } = health {
                self.errors.push(format!("{kind}: {error}"));
            }
        }
        for delta in update.deltas {
            if let Delta::Replace(list) = &delta {
                *self.n_lists.entry(list.kind()).or_default() += 1;
            }
            // Tests look at the final state, not at the changes.
            drop(self.state.apply(delta));
        }
    }

    /// A pod of the namespace.
    pub fn pod(&self, name: &str) -> Option<&Pod> {
        self.state.pod(&ObjectName::new(&self.namespace, name))
    }

    /// The address of a pod of the namespace, empty if there is none.
    pub fn address_of(&self, name: &str) -> String {
        let address = self.pod(name).and_then(|pod| pod.addresses().first());
        address.map(ToString::to_string).unwrap_or_default()
    }

    /// When the watch of a kind last received anything, if it is healthy.
    pub fn heard(&self, kind: Kind) -> Option<Instant> {
        match self.freshness.of(kind) {
            Health::Synced { heard, .. } => Some(*heard),
            Health::Listing | Health::Broken { .. } | Health::Unserved => None,
        }
    }

    /// The names of all pods of the namespace, in order.
    pub fn pod_names(&self) -> Vec<&str> {
        let pods = self.state.pods().filter(|pod| *pod.name.namespace == self.namespace);
        pods.map(|pod| &*pod.name.name).collect()
    }

    /// The names of all policies of the namespace, in order.
    pub fn policy_names(&self) -> Vec<&str> {
        let policies = self.state.policies();
        let policies = policies.filter(|policy| *policy.name.namespace == self.namespace);
        policies.map(|policy| &*policy.name.name).collect()
    }

    /// The address of a node, empty if there is none.
    pub fn address_of_node(&self, name: &str) -> String {
        let address = self.state.node(name).and_then(|node| node.addresses.first());
        address.map(ToString::to_string).unwrap_or_default()
    }
}

/// Creates two pods, `web` and `db`, a Service, and a policy in a namespace, and a Node of the namespace's name.
pub async fn fill(cluster: &Cluster, in_namespace: &str) {
    for object in objects(in_namespace) {
        cluster.put(object).await.unwrap();
    }
}

/// A server in this process, with the objects of [`fill`] in the namespace `shop`.
pub async fn filled() -> FakeApi {
    let api = FakeApi::start().await.unwrap();
    for object in objects("shop") {
        api.put(object).unwrap();
    }
    api
}

fn objects(in_namespace: &str) -> [Value; 6] {
    [
        namespace(in_namespace),
        pod(in_namespace, "web", "10.0.0.1"),
        pod(in_namespace, "db", "10.0.0.2"),
        service(in_namespace, "web"),
        node(in_namespace, "192.168.0.1"),
        policy(in_namespace, "deny"),
    ]
}

/// A running pod; without an address if that is empty.
pub fn pod(namespace: &str, name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": { "app": name },
            "managedFields": [{ "manager": "kubelet", "fieldsV1": { "f:status": {} } }],
        },
        "spec": {
            "nodeName": "node-1",
            "containers": [{ "name": "c", "image": "i", "ports": [{ "containerPort": 80 }] }],
        },
        "status": {
            "phase": "Running",
            "podIP": if address.is_empty() { Value::Null } else { json!(address) },
            "podIPs": if address.is_empty() { json!([]) } else { json!([{ "ip": address }]) },
        },
    })
}

/// A namespace.
pub fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })
}

/// A Service; the server assigns its address.
pub fn service(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "type": "ClusterIP", "ports": [{ "name": "http", "port": 80 }] },
    })
}

/// A Node with one address.
pub fn node(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name },
        "status": { "addresses": [{ "type": "InternalIP", "address": address }] },
    })
}

/// A policy that isolates all pods of a namespace.
pub fn policy(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
    })
}
