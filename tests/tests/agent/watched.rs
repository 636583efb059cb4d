//! A watched fake API server: applies what the watches tell, as the agent's loop does.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a harness fails the test")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use netpol_agent::kube::{Access, Options, spawn};
use netpol_agent::model::{Kind, ObjectName, Pod};
use netpol_agent::source::{DiagnosticIndex, Freshness, Health, SourceUpdate};
use netpol_agent::store::{ClusterState, Delta};
use netpol_tests::fake_api::FakeApi;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// No condition takes longer to come true.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How often a condition is looked at while nothing is told.
const LOOK: Duration = Duration::from_millis(10);

/// A server, the watches on it, and what they told so far.
pub(crate) struct Watched {
    pub(crate) api: FakeApi,
    pub(crate) access: Access,
    pub(crate) state: ClusterState,
    pub(crate) diagnostics: DiagnosticIndex,
    pub(crate) freshness: Freshness,
    /// Complete lists told, by kind.
    pub(crate) n_lists: BTreeMap<Kind, usize>,
    /// Failures told.
    pub(crate) errors: Vec<String>,
    pub(crate) cancel: CancellationToken,
    pub(crate) tasks: JoinSet<()>,
    /// The file by which the server was found.
    pub(crate) kubeconfig: PathBuf,
    updates: mpsc::Receiver<SourceUpdate>,
    _directory: TempDir,
}

impl Watched {
    /// Watches a server without authentication.
    pub(crate) async fn new(api: FakeApi, options: Options) -> Self {
        Self::new_as(api, &json!({}), options).await
    }

    /// Watches a server as this user of a kubeconfig. Delays after failures are cut short.
    pub(crate) async fn new_as(api: FakeApi, user: &Value, options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        std::fs::write(&kubeconfig, api.kubeconfig(user)).unwrap();
        let access = Access::open(Some(&kubeconfig)).await.unwrap();
        let options = Options {
            min_retry: Duration::from_millis(10),
            max_retry: Duration::from_millis(100),
            ..options
        };
        let (out, updates) = mpsc::channel(64);
        let cancel = CancellationToken::new();
        let tasks = spawn(&access, &options, &out, &cancel);
        Self {
            api,
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
            _directory: directory,
        }
    }

    /// Watches a [`filled`] server, and has seen everything.
    pub(crate) async fn filled() -> Self {
        let mut watched = Self::new(filled().await, Options::default()).await;
        watched.until_listed().await;
        watched
    }

    /// Takes what is told until the condition holds.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while !holds(self) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "never came true: {what}\nhealth: {:#?}\nfailures: {:#?}\npods: {:#?}",
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
    pub(crate) async fn until_listed(&mut self) {
        self.until("every kind is listed", |w| w.freshness.missing().is_empty()).await;
    }

    /// Waits until all earlier events about pods have been taken, by one more pod.
    pub(crate) async fn fence(&mut self) {
        self.api.put(pod("shop", "fence", "10.9.9.9")).unwrap();
        self.until("the fence is there", |w| w.pod("fence").is_some()).await;
        self.api.delete(Kind::Pod, "shop", "fence").unwrap();
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
            if let Delta::Replace { kind, .. } = &delta {
                *self.n_lists.entry(*kind).or_default() += 1;
            }
            // What changed is of no interest here, only what is there in the end.
            drop(self.state.apply(delta));
        }
    }

    /// A pod of namespace `shop`.
    pub(crate) fn pod(&self, name: &str) -> Option<&Pod> {
        self.state.pod(&ObjectName::new("shop", name))
    }

    /// The address of a pod of namespace `shop`, empty if there is none.
    pub(crate) fn address_of(&self, name: &str) -> String {
        let address = self.pod(name).and_then(|pod| pod.addresses().first());
        address.map(ToString::to_string).unwrap_or_default()
    }

    /// When the watch of a kind was last heard, if it works.
    pub(crate) fn heard(&self, kind: Kind) -> Option<Instant> {
        match self.freshness.of(kind) {
            Health::Synced { heard, .. } => Some(*heard),
            Health::Listing | Health::Broken { .. } => None,
        }
    }

    /// The names of all pods, in order.
    pub(crate) fn pod_names(&self) -> Vec<&str> {
        self.state.pods().map(|pod| &*pod.name.name).collect()
    }

    /// The address of a node, empty if there is none.
    pub(crate) fn address_of_node(&self, name: &str) -> String {
        let address = self.state.node(name).and_then(|node| node.addresses.first());
        address.map(ToString::to_string).unwrap_or_default()
    }

    /// Pages of a list that were asked for at a path.
    pub(crate) fn n_asked_lists(&self, path: &str) -> usize {
        let asked = self.api.asked();
        let pages = asked.iter().filter(|asked| asked.path == path);
        pages.filter(|asked| !asked.query.contains_key("watch")).count()
    }
}

/// A server with two pods, `web` and `db` of namespace `shop`, and one object of each other kind.
pub(crate) async fn filled() -> FakeApi {
    let api = FakeApi::start().await.unwrap();
    for object in [
        namespace("shop"),
        pod("shop", "web", "10.0.0.1"),
        pod("shop", "db", "10.0.0.2"),
        service("shop", "web", "10.96.0.1"),
        node("node-1", "192.168.0.1"),
        policy("shop", "deny"),
    ] {
        api.put(object).unwrap();
    }
    api
}

pub(crate) fn pod(namespace: &str, name: &str, address: &str) -> Value {
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
            "podIP": address,
            "podIPs": if address.is_empty() { json!([]) } else { json!([{ "ip": address }]) },
        },
    })
}

pub(crate) fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })
}

pub(crate) fn service(namespace: &str, name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "clusterIP": address, "clusterIPs": [address], "type": "ClusterIP" },
    })
}

pub(crate) fn node(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name },
        "status": { "addresses": [{ "type": "InternalIP", "address": address }] },
    })
}

pub(crate) fn policy(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
    })
}
