//! Commands that ask the agents of a live cluster: the API server of this process runs what stands for the agents.
#![expect(clippy::indexing_slicing, clippy::panic, reason = "a failed look-up fails the test")]

mod drops;
mod explain;
mod learn;
mod observed;
mod policies;
mod status;
mod wait;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use expect_test::Expect;
use netpol_lab::fake_api::{Executed, FakeApi};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::output_in;

/// The namespace of the agents.
const SYSTEM: &str = "netpol-system";

/// A cluster whose agents answer what a test says. The folder holds its kubeconfig.
struct Fleet {
    api: Arc<FakeApi>,
    folder: TempDir,
    runtime: Runtime,
}

impl Fleet {
    /// A cluster with these nodes. Each has an agent, which executes nothing so far.
    fn new(nodes: &[&str]) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let api = Arc::new(runtime.block_on(FakeApi::start()).unwrap());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kubeconfig"), api.kubeconfig(&json!({}))).unwrap();
        let fleet = Self { api, folder, runtime };
        for node in nodes {
            fleet.put_node(node);
            fleet.put_agent(node, "Running");
        }
        fleet
    }

    fn put_node(&self, node: &str) {
        self.api.put(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": node, "labels": { "kubernetes.io/os": "linux" } },
        }));
    }

    fn put_agent(&self, node: &str, phase: &str) {
        self.api.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": agent_of(node), "namespace": SYSTEM,
                "labels": { "app.kubernetes.io/name": "netpol-agent" },
            },
            "spec": { "nodeName": node, "hostNetwork": true, "containers": [{ "name": "agent" }] },
            "status": { "phase": phase },
        }));
    }

    fn put_pod(&self, namespace: &str, name: &str, node: &str) {
        self.api.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
            "spec": { "nodeName": node, "containers": [{ "name": "c" }] },
            "status": { "phase": "Running" },
        }));
    }

    /// Sets what the agent of a node executes.
    fn agent(&self, node: &str, executor: impl Fn(&[String]) -> Executed + Send + Sync + 'static) {
        self.api.execute(SYSTEM, &agent_of(node), executor);
    }

    /// The agent of a node answers a command with this JSON.
    fn answers(&self, node: &str, command: &'static str, answer: &Value) {
        let answer = answer.to_string();
        self.agent(node, move |args| {
            assert_eq!(args.first().map(String::as_str), Some("netpol-agent"));
            assert_eq!(args.get(1).map(String::as_str), Some(command));
            assert_eq!(&args[args.len() - 2..], ["-o", "json"]);
            Executed::output(answer.clone() + "\n")
        });
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a command prints.
    fn output(&self, command: &str) -> String {
        output_in(self.folder(), &format!("{command} --kubeconfig DIR/kubeconfig"), "")
    }

    #[track_caller]
    fn check(&self, command: &str, expected: &Expect) {
        expected.assert_eq(&self.output(command));
    }
}

fn agent_of(node: &str) -> String {
    format!("netpol-agent-{node}")
}

/// How long something takes, and its result.
fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    #[expect(clippy::disallowed_methods, reason = "measures how long a command takes")]
    let begin = Instant::now();
    let result = what();
    (result, begin.elapsed())
}
