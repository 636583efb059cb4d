//! A running `kubectl netpol ui`, and a cluster for it.
//!
//! In: arguments. Out: the address to open, and what the agents were asked. Must not: outlive its value.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::fake_api::{Executed, FakeApi};
use crate::{binaries, repository};

/// The objects of the tests and of the picture in the documentation.
pub const SHOP: &str = "tests/page";

/// The server of the page.
#[derive(Debug)]
pub struct View {
    child: Child,
    url: String,
}

impl View {
    /// Starts it in the repository's folder, without a browser.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(args: &[&str]) -> Result<Self> {
        let mut command = Command::new(binaries::binary("kubectl-netpol")?);
        command.args(["ui", "--no-open"]).args(args).current_dir(repository::path(""));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut view = Self { child, url: String::new() };
        let stdout = view.child.stdout.take().context("no output")?;
        BufReader::new(stdout).read_line(&mut view.url)?;
        ensure!(view.url.starts_with("http://"), "kubectl netpol ui does not start");
        view.url.truncate(view.url.trim_end().len());
        Ok(view)
    }

    /// The address with the token.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for View {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The namespace of the agents.
const SYSTEM: &str = "netpol-system";

/// A cluster of an API server in this process: two nodes, one of which has no agent, a database with a policy and its client. The agent
/// reports drops at the database: of each address family one, one of them audited, and some without a record.
#[derive(Debug)]
pub struct LiveCluster {
    api: Arc<FakeApi>,
    folder: TempDir,
    asked: Arc<Mutex<Option<Instant>>>,
    _runtime: Runtime,
}

impl LiveCluster {
    /// Starts the API server.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn start() -> Result<Self> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build()?;
        let api = Arc::new(runtime.block_on(FakeApi::start())?);
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("kubeconfig"), api.kubeconfig(&json!({})))?;
        let cluster = Self { api, folder, asked: Arc::default(), _runtime: runtime };
        for node in ["n1", "n2"] {
            let labels = json!({ "kubernetes.io/os": "linux" });
            cluster.put(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node, "labels": labels } }));
        }
        cluster.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "netpol-agent-n2", "namespace": SYSTEM,
                "labels": { "app.kubernetes.io/name": "netpol-agent" },
            },
            "spec": { "nodeName": "n2", "hostNetwork": true, "containers": [{ "name": "agent" }] },
            "status": { "phase": "Running" },
        }));
        cluster.put(
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } }),
        );
        cluster.put_pod("redis", ["10.244.1.5", "fd00::5"]);
        cluster.put_pod("web", ["10.244.1.9", "fd00::9"]);
        cluster.put(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": "redis", "namespace": "shop", "uid": "u1", "managedFields": [] },
            "spec": { "podSelector": { "matchLabels": { "app": "redis" } }, "policyTypes": ["Ingress"] },
        }));
        cluster.report();
        Ok(cluster)
    }

    /// Sets what the agent writes.
    fn report(&self) {
        let v4 = record("not-allowed", ["10.244.1.9", "10.244.1.5"]);
        let v6 = record("audited", ["fd00::9", "fd00::5"]);
        let pod = json!({ "namespace": "shop", "name": "redis" });
        let others = json!({ "unix_ms": 3_600_001, "pod": pod, "n_not_shown": 4968 });
        let lines = [&v4, &v4, &v6, &others].map(|line| format!("{line}\n"));
        let (stdout, asked) = (lines.concat(), Arc::clone(&self.asked));
        self.api.execute(SYSTEM, "netpol-agent-n2", move |_| {
            #[expect(clippy::disallowed_methods, reason = "measures how long the page takes")]
            let now = Instant::now();
            *asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
            Executed::Hanging { stdout: stdout.clone() }
        });
    }

    fn put(&self, object: Value) {
        self.api.put(object);
    }

    /// Adds a pod of namespace shop, with a label of its name.
    pub fn put_pod(&self, name: &str, addresses: [&str; 2]) {
        self.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "shop", "labels": { "app": name } },
            "spec": { "nodeName": "n2", "containers": [{ "name": "c", "ports": [{ "containerPort": 6379 }] }] },
            "status": { "phase": "Running", "podIPs": addresses.map(|ip| json!({ "ip": ip })) },
        }));
    }

    /// The path of a kubeconfig.
    pub fn kubeconfig(&self) -> String {
        self.folder.path().join("kubeconfig").display().to_string()
    }

    /// The time since the agent was asked for drops.
    pub fn since_asked(&self) -> Option<Duration> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }
}

/// A dropped connection from web to redis, as an agent records it.
fn record(reason: &str, [source, destination]: [&str; 2]) -> Value {
    let name = |name: &str| json!({ "namespace": "shop", "name": name });
    json!({
        "unix_ms": 3_600_000, "pod": name("redis"), "direction": "ingress", "reason": reason, "protocol": "TCP",
        "source": source, "source_port": 40_000, "destination": destination, "destination_port": 6379,
        "peer": name("web"), "policies": [name("redis")], "rule": null, "tier": null, "n_suppressed": 0,
    })
}
