//! `status`: what is in force on each node, or at one pod.
//!
//! In: the status of the agents. Out: one row for each node, and what needs attention. Must not: judge what an agent does not report.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use netpol_policy::model::ObjectName;
use netpol_terminal::{FOUND, Terminal};
use serde::Serialize;
use serde_json::Value;

use super::answer::{Endpoint, Source, Status};
use super::cluster::{AccessArgs, Agent, Answers, Cluster, Silent};
use super::output::{Format, Rows, or_dash, printable};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  netpol status
  netpol status -o wide --context production
  netpol status pod/web-0 -n shop";

/// Show what is in force on the nodes of a cluster, or at one pod.
///
/// Each node's agent is asked through the API server, as `kubectl exec` does. The exit code is 0 if policies are in force on every node
/// and every pod is protected, 1 if not, and 2 if a node does not answer.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    /// The pod: `pod/NAME` or `NAMESPACE/NAME` [default: all nodes].
    #[arg(value_name = "POD")]
    pod: Option<String>,
    /// Namespace of the pod [default: that of the context].
    #[arg(short, long, value_name = "NAMESPACE", requires = "pod")]
    namespace: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The status of the nodes, as JSON and YAML.
#[derive(Debug, Serialize)]
struct Report<'a> {
    nodes: Vec<NodeReport<'a>>,
    unanswered: &'a [Silent],
}

#[derive(Debug, Serialize)]
struct NodeReport<'a> {
    node: &'a str,
    agent: &'a str,
    status: &'a Value,
}

/// The status of a pod, as JSON and YAML.
#[derive(Debug, Serialize)]
struct PodReport {
    pod: ObjectName,
    node: String,
    /// Whether the node's network is the pod's: then no policy applies to it.
    is_host_network: bool,
    /// What its node's agent says about it; `None` if it does not know the pod.
    endpoint: Option<Value>,
    /// Whether the node has all current policies in force.
    is_in_force: bool,
    unanswered: Vec<Silent>,
}

/// Shows the status of all nodes, or of a pod.
pub(super) async fn run(args: &StatusArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let StatusArgs { pod, namespace, access, output } = args;
    let cluster = Cluster::open(access).await?;
    match pod {
        Some(pod) => {
            let name = cluster.pod_name(pod, namespace.as_deref())?;
            of_pod(&cluster, name, *output, terminal).await
        }
        None => of_nodes(&cluster, *output, terminal).await,
    }
}

async fn of_nodes(
    cluster: &Cluster,
    format: Format,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<u8> {
    let found = cluster.agents().await?;
    let mut answers = cluster.ask_all(found, &["status"]).await;
    let statuses = understood(&mut answers);
    let is_well = statuses.values().all(is_well);
    let report = Report {
        nodes: answers
            .answers
            .iter()
            .map(|(Agent { node, pod }, status)| NodeReport { node, agent: pod, status })
            .collect(),
        unanswered: &answers.silent,
    };
    if !format.write(&report, terminal)? {
        table(&answers, &statuses, format).write(terminal)?;
        for (agent, status) in &statuses {
            for line in attention(status) {
                writeln!(terminal.stdout, "! node {}: {}", agent.node, printable(&line))?;
            }
        }
    }
    Ok(answers.report_silent(if is_well { 0 } else { FOUND }, terminal))
}

/// The answers that are a status. The others count as no answers.
fn understood(answers: &mut Answers) -> BTreeMap<Agent, Status> {
    let mut statuses = BTreeMap::new();
    let mut kept = Vec::new();
    for (agent, value) in answers.answers.drain(..) {
        match Status::deserialize_from(&value) {
            Ok(status) => {
                statuses.insert(agent.clone(), status);
                kept.push((agent, value));
            }
            Err(error) => answers.silent.push(Silent {
                node: agent.node,
                reason: format!("its status is not understood: {error}"),
            }),
        }
    }
    answers.answers = kept;
    statuses
}

fn is_well(status: &Status) -> bool {
    status.is_in_force
        && status.from_before.is_none()
        && status.blind.is_none()
        && status.endpoints.iter().all(|endpoint| endpoint.protection == "ready")
}

fn table(answers: &Answers, statuses: &BTreeMap<Agent, Status>, format: Format) -> Rows {
    let mut columns =
        vec!["NODE", "POLICIES", "LAG", "SOURCE", "PODS", "UNPROTECTED", "BLOCKED", "LEFTOVERS"];
    if format.is_wide() {
        columns.extend(["SELECTING", "OVER-CAPACITY", "EPOCH", "VERSION", "AGENT"]);
    }
    let mut rows = Rows::new(&columns);
    for (Agent { node, pod }, status) in statuses {
        let n = |protections: &[&str]| {
            let with = status.endpoints.iter();
            with.filter(|e| protections.contains(&e.protection.as_str())).count().to_string()
        };
        let mut cells = vec![
            node.clone(),
            force(status).to_owned(),
            status.lag_ms.map_or_else(|| "0".to_owned(), |lag| format!("{lag}ms")),
            source(status),
            status.endpoints.len().to_string(),
            n(&["unprotected"]),
            n(&["blocked", "disconnected"]),
            (status.n_awaiting_gc + status.unidentified.len()).to_string(),
        ];
        if format.is_wide() {
            let over = status.policies.iter().filter(|policy| !policy.left_out.is_empty()).count();
            cells.extend([
                status.policies.len().to_string(),
                over.to_string(),
                status.epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string()),
                status.version.clone(),
                pod.clone(),
            ]);
        }
        rows.add(cells);
    }
    for Silent { node, reason: _ } in &answers.silent {
        let mut cells = vec![node.clone(), "no answer".to_owned()];
        cells.resize(columns.len(), "-".to_owned());
        rows.add(cells);
    }
    rows
}

fn force(status: &Status) -> &'static str {
    match (&status.from_before, status.is_in_force) {
        (Some(_), _) => "from before",
        (None, true) => "in force",
        (None, false) => "NOT in force",
    }
}

/// The worst watch: one without a list, else one that fails, else how long ago the quietest was heard.
fn source(status: &Status) -> String {
    if let Some(kind) = status.missing.first() {
        return format!("{kind} not listed");
    }
    let failing = status.sources.iter().filter(|(_, source)| source.state == "broken");
    let worst = failing.max_by_key(|(_, source)| source.since_s);
    if let Some((kind, source)) = worst {
        return format!("{kind} {}s old", source.since_s.unwrap_or_default());
    }
    let heard = status.sources.values().filter_map(|source| source.heard_s).max();
    heard.map_or_else(|| "-".to_owned(), |heard| format!("heard {heard}s ago"))
}

/// What an administrator should look at.
fn attention(status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    for (kind, Source { state: _, heard_s: _, since_s: _, error }) in &status.sources {
        lines.extend(error.iter().map(|error| format!("{kind} objects: {error}")));
    }
    if let Some(error) = &status.blind {
        lines.push(format!("the kernel does not report which programs are attached: {error}"));
    }
    for endpoint in &status.endpoints {
        lines.extend(unwell(endpoint).map(|what| format!("pod {}: {what}", endpoint.pod)));
    }
    for interface in &status.unidentified {
        lines.push(format!("interface {} of no known pod: {}", interface.name, interface.state));
    }
    if let Some(n @ 1..) = status.n_awaiting_migration {
        lines.push(format!("{n} endpoints wait for migration to TCX links"));
    }
    for policy in status.policies.iter().filter(|policy| !policy.left_out.is_empty()) {
        lines.push(format!(
            "policy {}: over capacity, not in force: {}",
            policy.policy,
            policy.left_out.join(", ")
        ));
    }
    for (engine, found) in &status.netfilter.engines {
        lines.push(format!(
            "{engine} has {} netfilter tables and chains here, which may still drop packets",
            found.n
        ));
    }
    lines.extend(status.diagnostics.iter().cloned());
    lines
}

/// Why a pod is not protected; `None` if it is.
fn unwell(endpoint: &Endpoint) -> Option<&'static str> {
    match (endpoint.protection.as_str(), endpoint.ifindex) {
        ("ready", _) => None,
        ("blocked", _) => Some("blocked: all packets drop until its policy is in force"),
        ("disconnected", _) => Some("its interface was deleted; restart the pod"),
        (_, 0) => Some("unprotected: its interface has not been found"),
        _ => Some("unprotected: its interface has no programs"),
    }
}

async fn of_pod(
    cluster: &Cluster,
    name: ObjectName,
    format: Format,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<u8> {
    let pod = cluster.pod(&name).await?;
    let spec = pod.spec.as_ref().with_context(|| format!("pod {name} has no spec"))?;
    let Some(node) = spec.node_name.clone() else {
        bail!("pod {name} is on no node yet: spec.nodeName is empty")
    };
    let is_host_network = spec.host_network == Some(true);
    let mut report = PodReport {
        pod: name.clone(),
        node: node.clone(),
        is_host_network,
        endpoint: None,
        is_in_force: false,
        unanswered: Vec::new(),
    };
    let found = cluster.agents().await?.on(&[node.clone()].into());
    let mut answers = Answers { answers: Vec::new(), silent: found.silent };
    for agent in found.agents {
        match cluster.ask(&agent, &["status"]).await {
            Ok(status) => answers.answers.push((agent, status)),
            Err(silent) => answers.silent.push(silent),
        }
    }
    let statuses = understood(&mut answers);
    let status = statuses.into_values().next();
    let endpoint =
        status.as_ref().and_then(|status| status.endpoints.iter().find(|e| e.pod == name));
    let raw = answers
        .answers
        .iter()
        .filter_map(|(_, value)| value.get("endpoints")?.as_array())
        .flatten();
    let named = serde_json::to_value(&name)?;
    report.endpoint = raw.clone().find(|endpoint| endpoint.get("pod") == Some(&named)).cloned();
    report.is_in_force =
        status.as_ref().is_some_and(|status| status.is_in_force && status.from_before.is_none());
    report.unanswered.clone_from(&answers.silent);
    if !format.write(&report, terminal)? {
        let out = &mut terminal.stdout;
        writeln!(out, "pod {name} on node {node}")?;
        if let Some(status) = &status {
            writeln!(out, "  policies of the node: {}", force(status))?;
            write_endpoint(endpoint, &pod, terminal)?;
        }
    }
    let is_protected =
        is_host_network || endpoint.is_some_and(|endpoint| endpoint.protection == "ready");
    let code = if report.is_in_force && is_protected { 0 } else { FOUND };
    Ok(answers.report_silent(code, terminal))
}

fn write_endpoint(
    endpoint: Option<&Endpoint>,
    pod: &Pod,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<()> {
    let out = &mut terminal.stdout;
    let is_host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let Some(endpoint) = endpoint else {
        let why = if is_host_network {
            "its network is the node's (spec.hostNetwork), so no policy applies to it".to_owned()
        } else {
            format!("unknown to the agent; the pod is {phase}")
        };
        writeln!(out, "  protection: {why}")?;
        return Ok(());
    };
    let protection = unwell(endpoint).unwrap_or("ready: its policies are in force");
    writeln!(out, "  protection: {protection}")?;
    let addresses: Vec<_> = endpoint.addresses.iter().map(ToString::to_string).collect();
    writeln!(out, "  addresses: {}", or_dash(addresses.join(", ")))?;
    writeln!(out, "  isolated: {}", printable(&or_dash(endpoint.isolated.join(", "))))?;
    if !endpoint.audited.is_empty() {
        writeln!(
            out,
            "  audited, so packets are only reported: {}",
            printable(&endpoint.audited.join(", "))
        )?;
    }
    if endpoint.forwards {
        writeln!(out, "  may send from addresses that are not its own")?;
    }
    writeln!(
        out,
        "  interface: {}, entries of its allow maps: {}",
        endpoint.ifindex, endpoint.n_allow_entries
    )?;
    Ok(())
}
