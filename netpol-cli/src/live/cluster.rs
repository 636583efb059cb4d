//! The agents of a cluster, and questions to many of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client};
use netpol_kube::{Access, Error};
use netpol_terminal::Terminal;
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;

use super::{duration, exec};

/// The label of the agents' pods, as in `deploy/base/daemonset.yaml`.
const LABEL: &str = "app.kubernetes.io/name=netpol-agent";

/// Questions that are under way at the same time.
const MAX_CONCURRENT: usize = 64;

/// Time limit for each request to the API server.
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// Which cluster to ask, and how long to wait for its nodes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AccessArgs {
    /// Kubeconfig file [default: the file that kubectl uses].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current context].
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    #[command(flatten)]
    agents: AgentsArgs,
}

/// Where the agents are, and how long to wait for them.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AgentsArgs {
    /// Namespace of the agents' pods.
    #[arg(long, value_name = "NAMESPACE", default_value = "netpol-system")]
    agent_namespace: String,
    /// How long to wait for each node, such as `500ms` or `10s`. A node that does not answer in time is named, and the exit code is 2.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    node_timeout: Duration,
}

impl AccessArgs {
    /// Finds the API server.
    ///
    /// # Errors
    /// The kubeconfig cannot be used.
    pub(crate) async fn open(&self) -> anyhow::Result<Access> {
        let access = Access::open_context(self.kubeconfig.as_deref(), self.context.as_deref());
        access.await.context("cannot access the cluster")
    }
}

impl AccessArgs {
    /// The kubeconfig and its context.
    pub(crate) fn kubeconfig(&self) -> (Option<&Path>, Option<&str>) {
        (self.kubeconfig.as_deref(), self.context.as_deref())
    }

    /// As if these options were given.
    pub(crate) fn new(
        kubeconfig: Option<PathBuf>,
        context: Option<String>,
        agents: AgentsArgs,
    ) -> Self {
        Self { kubeconfig, context, agents }
    }
}

/// Access to the agents of a cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(super) client: Client,
    pub(super) agent_namespace: String,
    pub(super) node_timeout: Duration,
}

/// The agent of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Agent {
    /// The node.
    pub(crate) node: String,
    /// The agent's pod.
    pub(crate) pod: String,
}

/// A node that does not answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Silent {
    /// The node.
    pub(crate) node: String,
    /// Why it does not answer.
    pub(crate) reason: String,
}

/// What a command writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// One JSON document.
    Document,
    /// One JSON object a line.
    Lines,
}

/// The agents of a cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agents {
    /// One agent for each node, by node.
    pub(crate) agents: Vec<Agent>,
    /// Nodes whose agent does not run.
    pub(crate) silent: Vec<Silent>,
}

/// The answers of many nodes, by node.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// The nodes that answer.
    pub(crate) answers: Vec<(Agent, Value)>,
    /// The nodes that do not.
    pub(crate) silent: Vec<Silent>,
}

impl Silent {
    fn new(node: &str, reason: impl Into<String>) -> Self {
        Self { node: node.to_owned(), reason: reason.into() }
    }
}

impl Agents {
    /// Only the agents of these nodes. A node without an agent is silent.
    pub(crate) fn on(self, nodes: &BTreeSet<String>) -> Self {
        let mut found = self;
        found.agents.retain(|agent| nodes.contains(&agent.node));
        found.silent.retain(|silent| nodes.contains(&silent.node));
        let named: BTreeSet<_> = found.agents.iter().map(|agent| &agent.node).collect();
        let named: BTreeSet<_> = named
            .into_iter()
            .chain(found.silent.iter().map(|silent| &silent.node))
            .cloned()
            .collect();
        let without = nodes.difference(&named).map(|node| Silent::new(node, NO_AGENT));
        found.silent.extend(without);
        found
    }
}

impl Answers {
    /// Names the silent nodes. Returns the exit code: `code`, or 2 if a node is silent.
    pub(crate) fn report_silent(&self, code: u8, terminal: &mut Terminal<'_>) -> u8 {
        for Silent { node, reason } in &self.silent {
            terminal.complain(&format!("node {node} does not answer: {reason}"));
        }
        if self.silent.is_empty() { code } else { netpol_terminal::FAILED }
    }
}

const NO_AGENT: &str = "it has no agent";

impl Cluster {
    /// Finds the API server.
    ///
    /// # Errors
    /// The kubeconfig cannot be used.
    pub(crate) async fn open(args: &AccessArgs) -> anyhow::Result<Self> {
        let AccessArgs { kubeconfig: _, context: _, agents } = args;
        let AgentsArgs { agent_namespace, node_timeout } = agents;
        let client = args.open().await?.client();
        Ok(Self { client, agent_namespace: agent_namespace.clone(), node_timeout: *node_timeout })
    }

    /// The namespace of names without one: that of the kubeconfig's context.
    pub(crate) fn default_namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// Finds the agents.
    ///
    /// # Errors
    /// Their pods cannot be listed, or there are none. Without the right to list nodes, those without an agent's pod are unknown.
    pub(crate) async fn agents(&self) -> anyhow::Result<Agents> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.agent_namespace);
        let nodes = Api::<Node>::all(self.client.clone());
        let (labelled, all) = (ListParams::default().labels(LABEL), ListParams::default());
        let (pods, nodes) = futures::join!(
            within(API_TIMEOUT, pods.list(&labelled)),
            within(API_TIMEOUT, nodes.list_metadata(&all)),
        );
        let namespace = &self.agent_namespace;
        let pods = pods
            .map_err(|error| message(&error))
            .with_context(|| format!("cannot list the agents' pods in namespace {namespace}"))?;
        if pods.items.is_empty() {
            bail!(
                "namespace {namespace} has no pod with the label {LABEL}: is netpol installed there? --agent-namespace names another one"
            );
        }
        let mut by_node: BTreeMap<String, Result<Agent, Silent>> = BTreeMap::new();
        let is_windows = |labels: &BTreeMap<String, String>| {
            labels.get("kubernetes.io/os").is_some_and(|os| os == "windows")
        };
        for node in nodes.map(|nodes| nodes.items).unwrap_or_default() {
            let Some(name) = node.metadata.name else { continue };
            if !node.metadata.labels.as_ref().is_some_and(is_windows) {
                by_node.insert(name.clone(), Err(Silent::new(&name, NO_AGENT)));
            }
        }
        for pod in pods.items {
            let Some(found) = agent(&pod) else { continue };
            let node = found.as_ref().map_or_else(|silent| &silent.node, |agent| &agent.node);
            // During a roll-out a node may have two.
            if !by_node.get(node).is_some_and(Result::is_ok) {
                by_node.insert(node.clone(), found);
            }
        }
        let mut agents = Agents::default();
        for found in by_node.into_values() {
            match found {
                Ok(agent) => agents.agents.push(agent),
                Err(silent) => agents.silent.push(silent),
            }
        }
        Ok(agents)
    }

    /// Runs `netpol-agent ARGS -o json` on the node of an agent. Exit code 1 is an answer too, such as that of `explain`.
    ///
    /// # Errors
    /// The reason why the node does not answer.
    pub(crate) async fn ask(&self, agent: &Agent, args: &[&str]) -> Result<Value, Silent> {
        self.ask_in(agent, args, Form::Document).await
    }

    async fn ask_in(&self, agent: &Agent, args: &[&str], form: Form) -> Result<Value, Silent> {
        let silent = |reason| Silent { node: agent.node.clone(), reason };
        match timeout(self.node_timeout, exec::run(self, &agent.pod, args)).await {
            Err(_) => Err(silent(format!("no answer within {:?}", self.node_timeout))),
            Ok(Err(error)) => Err(silent(format!("{error:#}"))),
            Ok(Ok(text)) => {
                let read = match form {
                    Form::Document => serde_json::from_slice(&text),
                    Form::Lines => {
                        let lines = serde_json::Deserializer::from_slice(&text).into_iter();
                        lines.collect::<Result<_, _>>().map(Value::Array)
                    }
                };
                read.map_err(|error| silent(format!("its answer is not JSON: {error}")))
            }
        }
    }

    /// Runs `netpol-agent ARGS -o json` on the nodes of all agents, many at the same time.
    pub(crate) async fn ask_all(&self, found: Agents, args: &[&str]) -> Answers {
        self.ask_all_in(found, args, Form::Document).await
    }

    /// The same for a command that writes one object a line: each answer is an array.
    pub(crate) async fn ask_all_lines(&self, found: Agents, args: &[&str]) -> Answers {
        self.ask_all_in(found, args, Form::Lines).await
    }

    async fn ask_all_in(&self, found: Agents, args: &[&str], form: Form) -> Answers {
        let Agents { agents, mut silent } = found;
        let questions = agents.into_iter().map(async |agent| {
            let answer = self.ask_in(&agent, args, form).await;
            (agent, answer)
        });
        let mut questions = futures::stream::iter(questions).buffer_unordered(MAX_CONCURRENT);
        let mut answers = Vec::new();
        while let Some((agent, answer)) = questions.next().await {
            match answer {
                Ok(answer) => answers.push((agent, answer)),
                Err(reason) => silent.push(reason),
            }
        }
        answers.sort_by(|(a, _), (b, _)| a.cmp(b));
        silent.sort();
        Answers { answers, silent }
    }
}

/// The agent of a pod, or why it cannot be asked; `None` if the pod has no node.
fn agent(pod: &Pod) -> Option<Result<Agent, Silent>> {
    let node = pod.spec.as_ref()?.node_name.clone()?;
    let name = pod.metadata.name.clone()?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(Err(Silent::new(&node, format!("its agent, pod {name}, is being deleted"))));
    }
    if phase != "Running" {
        return Some(Err(Silent::new(&node, format!("its agent, pod {name}, is {phase}"))));
    }
    Some(Ok(Agent { node, pod: name }))
}

/// The result of a request, or an error after the time limit.
pub(super) async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match timeout(limit, request).await {
        Ok(result) => result.map_err(Error::from),
        Err(_) => Err(Error::Timeout { timeout: limit }),
    }
}

/// An error of the API server in one line. Its causes would repeat it.
pub(super) fn message(error: &Error) -> anyhow::Error {
    anyhow::Error::msg(error.to_string())
}
