//! `policy`: one policy on all nodes: in force where, at which pods, and what its rules have decided.
//!
//! In: the policy's object and the answers of all agents. Out: tables. Must not: add up what is not counted by rule.

use std::collections::BTreeMap;
use std::time::Duration;

use netpol_policy::model::ObjectName;
use netpol_terminal::{FOUND, Terminal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cluster::{AccessArgs, Answers, Cluster, Silent};
use super::duration;
use super::output::{Format, Rows, or_dash};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  netpol policy web -n shop
  netpol policy networkpolicy/web -n shop -o json";

/// Show one NetworkPolicy on all nodes: the generation in force, the pods that it concerns, the connections that its rules have decided.
///
/// The exit code is 0 if it is in force on all nodes whose pods it concerns, 1 if not, or if rules exceed the capacity of the maps, and 2
/// if a node does not answer.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PolicyArgs {
    /// The policy: `NAME`, `networkpolicy/NAME` or `NAMESPACE/NAME`.
    #[arg(value_name = "POLICY")]
    policy: String,
    /// Namespace of the policy [default: that of the context].
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The policy, as JSON and YAML.
#[derive(Debug, Serialize)]
struct Report {
    policy: ObjectName,
    generation: i64,
    resource_version: Option<String>,
    nodes: Vec<NodeReport>,
    unanswered: Vec<Silent>,
}

#[derive(Debug, Serialize)]
struct NodeReport {
    node: String,
    /// The output of `netpol-agent policy POLICY -o json` there.
    policy: Value,
}

/// An answer, as far as it is shown.
#[derive(Debug, Deserialize)]
struct OnNode {
    #[serde(default)]
    revision: Option<Revision>,
    is_in_force: bool,
    #[serde(default)]
    from_before: Option<Value>,
    #[serde(default)]
    is_held: bool,
    pods: Vec<OnPod>,
    #[serde(default)]
    left_out: Vec<String>,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct Revision {
    generation: i64,
    resource_version: String,
}

#[derive(Debug, Deserialize)]
struct OnPod {
    pod: ObjectName,
    directions: Vec<String>,
    protection: String,
}

#[derive(Debug, Deserialize)]
struct Rule {
    direction: String,
    index: usize,
    n_connections: u64,
    counted_s: u64,
}

/// Shows the policy.
pub(super) async fn run(args: &PolicyArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let PolicyArgs { policy, namespace, access, output } = args;
    let cluster = Cluster::open(access).await?;
    let name = cluster.policy_name(policy, namespace.as_deref())?;
    let metadata = cluster.policy(&name).await?.metadata;
    let found = cluster.agents().await?;
    let Answers { answers, mut silent } =
        cluster.ask_all(found, &["policy", &name.to_string()]).await;
    let mut on_nodes = BTreeMap::new();
    let mut nodes = Vec::new();
    for (agent, value) in answers {
        match OnNode::deserialize(&value) {
            Ok(on_node) => {
                on_nodes.insert(agent.node.clone(), on_node);
                nodes.push(NodeReport { node: agent.node, policy: value });
            }
            Err(error) => silent.push(Silent {
                node: agent.node,
                reason: format!("its answer is not understood: {error}"),
            }),
        }
    }
    let report = Report {
        policy: name,
        generation: metadata.generation.unwrap_or_default(),
        resource_version: metadata.resource_version,
        nodes,
        unanswered: silent.clone(),
    };
    let is_well = on_nodes.values().all(|on_node| {
        on_node.left_out.is_empty() && (on_node.pods.is_empty() || report.is_current(on_node))
    });
    if !output.write(&report, terminal)? {
        report.write_text(&on_nodes, *output, terminal)?;
    }
    let code = if is_well { 0 } else { FOUND };
    Ok(Answers { answers: Vec::new(), silent }.report_silent(code, terminal))
}

impl Report {
    /// Whether the object of the API server is in force.
    fn is_current(&self, on_node: &OnNode) -> bool {
        let known = on_node.revision.as_ref().map(|revision| revision.resource_version.as_str());
        on_node.is_in_force
            && on_node.from_before.is_none()
            && known.is_some()
            && known == self.resource_version.as_deref()
    }

    fn write_text(
        &self,
        on_nodes: &BTreeMap<String, OnNode>,
        format: Format,
        terminal: &mut Terminal<'_>,
    ) -> anyhow::Result<()> {
        let Self { policy, generation, .. } = self;
        let n_nodes = on_nodes.values().filter(|on_node| !on_node.pods.is_empty()).count();
        let n_pods: usize = on_nodes.values().map(|on_node| on_node.pods.len()).sum();
        writeln!(
            terminal.stdout,
            "NetworkPolicy {policy}: generation {generation} concerns {n_pods} pods on {n_nodes} nodes"
        )?;
        let mut rows = Rows::new(&["NODE", "GENERATION", "IN-FORCE", "PODS", "OVER-CAPACITY"]);
        let is_shown =
            |on_node: &OnNode| format.is_wide() || !on_node.pods.is_empty() || on_node.is_held;
        for (node, on_node) in on_nodes.iter().filter(|(_, on_node)| is_shown(on_node)) {
            let known = on_node.revision.as_ref().map(|revision| revision.generation.to_string());
            let force = match (self.is_current(on_node), on_node.is_held) {
                (true, _) => "yes",
                (false, true) => "deleted; until its namespace is gone",
                (false, false) => "not yet",
            };
            rows.add([
                node.clone(),
                or_dash(known.unwrap_or_default()),
                force.to_owned(),
                on_node.pods.len().to_string(),
                or_dash(on_node.left_out.join(", ")),
            ]);
        }
        rows.write(terminal)?;
        writeln!(terminal.stdout)?;
        let mut rows = Rows::new(&["POD", "NODE", "ISOLATED", "PROTECTION"]);
        for (node, on_node) in on_nodes {
            for OnPod { pod, directions, protection } in &on_node.pods {
                rows.add([
                    pod.to_string(),
                    node.clone(),
                    directions.join(", "),
                    protection.clone(),
                ]);
            }
        }
        rows.write(terminal)?;
        writeln!(terminal.stdout)?;
        let mut rows = Rows::new(&["RULE", "CONNECTIONS", "NOTE"]);
        for ((direction, index), (n, since)) in totals(on_nodes) {
            let unused = if n == 0 {
                format!("unused for {}", duration::words(since))
            } else {
                String::new()
            };
            rows.add([format!("{direction}[{index}]"), n.to_string(), or_dash(unused)]);
        }
        Ok(rows.write(terminal)?)
    }
}

/// By rule: the connections of all nodes, and how long the node has counted that has done so longest.
fn totals(on_nodes: &BTreeMap<String, OnNode>) -> BTreeMap<(String, usize), (u64, Duration)> {
    let mut totals = BTreeMap::new();
    for rule in on_nodes.values().flat_map(|on_node| &on_node.rules) {
        let key = (rule.direction.clone(), rule.index);
        let (n, longest) = totals.entry(key).or_insert((0, Duration::ZERO));
        *n += rule.n_connections;
        *longest = (*longest).max(Duration::from_secs(rule.counted_s));
    }
    totals
}
