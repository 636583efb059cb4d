//! `wait`: until a policy is in force at all pods that it selects.
//!
//! In: the policy and the pods of the API server, and the answers of the agents of their nodes. Out: an exit code, and what is missing
//! after the time-out. Must not: write to the API server.

mod progress;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use netpol_policy::model::ObjectName;
use netpol_terminal::{FOUND, Terminal};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::cluster::{AccessArgs, Agents, Answers, Cluster, Silent};
use super::duration;
use super::output::{Format, printable};
use progress::{Answer, Missing, Progress, Revision, SelectedPod, Wanted};

/// Time between two questions to a node.
const PERIOD: Duration = Duration::from_millis(250);

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  kubectl apply -f policy.yaml && netpol wait networkpolicy/web -n shop
  netpol wait shop/web --timeout 10s -o json";

/// Wait until a NetworkPolicy is in force at all pods that it selects.
///
/// Asks the agents of the nodes of these pods. A pod that has not started yet needs no waiting: its containers start in the policies of its
/// node. The exit code is 0 once the policy is in force as the API server has it now, and 1 after the time-out.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WaitArgs {
    /// The policy: `NAME`, `networkpolicy/NAME` or `NAMESPACE/NAME`.
    #[arg(value_name = "POLICY")]
    policy: String,
    /// Namespace of the policy [default: that of the context].
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// How long to wait, such as `30s`.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration::parse)]
    timeout: Duration,
    #[command(flatten)]
    access: AccessArgs,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The outcome.
#[derive(Debug, Serialize)]
struct Outcome {
    policy: ObjectName,
    generation: i64,
    is_in_force: bool,
    waited_ms: u64,
    nodes: BTreeSet<String>,
    n_pods: usize,
    missing: Vec<Silent>,
}

/// What an agent answers, as far as it matters here.
#[derive(Debug, Deserialize)]
struct PolicyAnswer {
    uid: Option<String>,
    revision: Option<RevisionAnswer>,
    is_in_force: bool,
    #[serde(default)]
    from_before: Option<Value>,
    ready: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct RevisionAnswer {
    generation: i64,
    resource_version: String,
}

/// Waits.
pub(super) async fn run(args: &WaitArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let WaitArgs { policy, namespace, timeout, access, output } = args;
    let cluster = Cluster::open(access).await?;
    let name = cluster.policy_name(policy, namespace.as_deref())?;
    let outcome = wait(&cluster, &name, *timeout).await?;
    if !output.write(&outcome, terminal)? {
        let Outcome { policy, generation, is_in_force, waited_ms: _, nodes, n_pods, missing } =
            &outcome;
        if *is_in_force {
            let n_nodes = nodes.len();
            writeln!(
                terminal.stdout,
                "NetworkPolicy {policy}: generation {generation} is in force at {n_pods} pods on {n_nodes} nodes"
            )?;
        }
        for Silent { node, reason } in missing {
            terminal.complain(&format!(
                "NetworkPolicy {policy}: generation {generation} is not in force on node {node}: {}",
                printable(reason)
            ));
        }
    }
    Ok(if outcome.is_in_force { 0 } else { FOUND })
}

async fn wait(cluster: &Cluster, name: &ObjectName, limit: Duration) -> anyhow::Result<Outcome> {
    let begin = Instant::now();
    let mut progress = Progress::default();
    let mut reasons: BTreeMap<String, String> = BTreeMap::new();
    let mut found = cluster.agents().await?;
    loop {
        let (wanted, generation) = read(cluster, name).await?;
        let missing = progress.missing(&wanted);
        let is_in_force = missing.is_empty();
        if is_in_force || begin.elapsed() >= limit {
            return Ok(Outcome {
                policy: name.clone(),
                generation,
                is_in_force,
                waited_ms: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
                nodes: wanted.pods.iter().map(|pod| pod.node.clone()).collect(),
                n_pods: wanted.pods.len(),
                missing: missing.iter().map(|missing| reason(missing, &reasons)).collect(),
            });
        }
        let nodes: BTreeSet<_> = missing.iter().map(|missing| missing.node().to_owned()).collect();
        let silent =
            ask(cluster, found.clone().on(&nodes), name, &mut progress, &mut reasons).await;
        if silent.is_empty() && progress.missing(&wanted).is_empty() {
            // Whether it still is what the API server has.
            continue;
        }
        sleep(PERIOD).await;
        if !silent.is_empty() {
            // An agent may have another pod now.
            found = cluster.agents().await.unwrap_or(found);
            reasons.extend(silent.into_iter().map(|Silent { node, reason }| (node, reason)));
        }
    }
}

/// The policy and the pods that it selects: in this order, so that the pods are not older.
async fn read(cluster: &Cluster, name: &ObjectName) -> anyhow::Result<(Wanted, i64)> {
    let policy = cluster.policy(name).await?;
    let pods = cluster.selected(&policy).await?;
    let metadata = policy.metadata;
    let revision = Revision {
        uid: metadata.uid.with_context(|| format!("NetworkPolicy {name} has no uid"))?,
        resource_version: metadata
            .resource_version
            .with_context(|| format!("NetworkPolicy {name} has no resourceVersion"))?,
    };
    let pods = pods.into_iter().filter_map(|pod| {
        let status = pod.status.unwrap_or_default();
        Some(SelectedPod {
            name: ObjectName::new(&name.namespace, &pod.metadata.name?).to_string(),
            // A pod without a node has not started.
            node: pod.spec?.node_name?,
            has_address: status.pod_ip.is_some()
                || status.pod_ips.is_some_and(|ips| !ips.is_empty()),
        })
    });
    Ok((Wanted { revision, pods: pods.collect() }, metadata.generation.unwrap_or_default()))
}

/// Asks agents and records what they answer. Returns the nodes that do not.
async fn ask(
    cluster: &Cluster,
    found: Agents,
    name: &ObjectName,
    progress: &mut Progress,
    reasons: &mut BTreeMap<String, String>,
) -> Vec<Silent> {
    let Answers { answers, mut silent } =
        cluster.ask_all(found, &["policy", &name.to_string()]).await;
    for (agent, answer) in answers {
        match PolicyAnswer::deserialize(answer) {
            Ok(answer) => {
                reasons.insert(agent.node.clone(), in_words(&answer));
                progress.record(&agent.node, in_short(answer));
            }
            Err(error) => silent.push(Silent {
                node: agent.node,
                reason: format!("its answer is not understood: {error}"),
            }),
        }
    }
    silent
}

fn in_short(answer: PolicyAnswer) -> Answer {
    let PolicyAnswer { uid, revision, is_in_force, from_before, ready } = answer;
    let revision = uid
        .zip(revision)
        .map(|(uid, revision)| Revision { uid, resource_version: revision.resource_version });
    Answer { revision, is_in_force: is_in_force && from_before.is_none(), ready }
}

fn in_words(answer: &PolicyAnswer) -> String {
    match &answer.revision {
        None => "its agent does not know the policy yet".to_owned(),
        Some(_) if !answer.is_in_force => "its agent is behind".to_owned(),
        Some(revision) => format!("it has generation {}", revision.generation),
    }
}

fn reason(missing: &Missing, reasons: &BTreeMap<String, String>) -> Silent {
    let reason = match missing {
        Missing::Node(node) => reasons.get(node).cloned(),
        Missing::Pods(_, pods) => Some(format!("unprotected or blocked: {}", pods.join(", "))),
    };
    let reason = reason.unwrap_or_else(|| "it has not been asked in time".to_owned());
    Silent { node: missing.node().to_owned(), reason }
}
