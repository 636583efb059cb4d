//! `flows`: the live connections of a pod, with the rule that allows each now.
//!
//! In: the flows of the pod's node. Out: a table. Must not: ask other nodes, which know the connection from its other end.

use std::net::IpAddr;

use anyhow::Context as _;
use netpol_policy::model::ObjectName;
use netpol_terminal::Terminal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cluster::{AccessArgs, Answers, Cluster, Silent};
use super::observer::{Route, ThroughArgs};
use super::output::{Format, Rows, or_dash};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  netpol flows pod/web-0 -n shop
  netpol flows shop/web-0 -o json";

/// List the live connections of a pod, with the rule that would allow each if it began now.
///
/// A connection whose rule has been removed says so: it ends with its next packet, unless the policy keeps existing connections.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct FlowsArgs {
    /// The pod: `NAME`, `pod/NAME` or `NAMESPACE/NAME`.
    #[arg(value_name = "POD")]
    pod: String,
    /// Namespace of the pod [default: that of the context].
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    through: ThroughArgs,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The connections, as JSON and YAML.
#[derive(Debug, Serialize)]
struct Report {
    pod: ObjectName,
    node: String,
    flows: Vec<Value>,
    unanswered: Vec<Silent>,
}

/// A connection, as `netpol-agent flows --pod POD -o json` has it.
#[derive(Debug, Deserialize)]
struct Flow {
    origin: String,
    protocol: String,
    local_port: u16,
    remote: IpAddr,
    remote_port: u16,
    peer: Option<ObjectName>,
    state: String,
    rule: Option<String>,
    idle_s: u64,
    #[serde(default)]
    now: Option<Now>,
}

#[derive(Debug, Deserialize)]
struct Now {
    is_allowed: bool,
    rules: Vec<String>,
    summary: String,
}

/// Lists connections.
pub(super) async fn run(args: &FlowsArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let FlowsArgs { pod, namespace, access, through, output } = args;
    let cluster = Cluster::open(access).await?;
    let name = cluster.pod_name(pod, namespace.as_deref())?;
    let node = cluster.pod(&name).await?.spec.and_then(|spec| spec.node_name);
    let node =
        node.with_context(|| format!("pod {name} is on no node yet: spec.nodeName is empty"))?;
    let Answers { answers, mut silent } = match through.route(&cluster).await {
        Route::Exec => {
            let found = cluster.agents().await?.on(&[node.clone()].into());
            cluster.ask_all(found, &["flows", "--pod", &name.to_string()]).await
        }
        Route::Observer => cluster.observed_flows(&name).await?,
    };
    let (mut values, mut flows) = (Vec::new(), Vec::new());
    for (agent, answer) in answers {
        match Vec::<Flow>::deserialize(&answer) {
            Ok(found) => {
                values.extend(answer.as_array().cloned().unwrap_or_default());
                flows.extend(found);
            }
            Err(error) => silent.push(Silent {
                node: agent.node,
                reason: format!("its answer is not understood: {error}"),
            }),
        }
    }
    let report = Report { pod: name.clone(), node, flows: values, unanswered: silent.clone() };
    if !output.write(&report, terminal)? {
        if flows.is_empty() && silent.is_empty() {
            terminal.complain(&format!("pod {name} has no live connections"));
        } else {
            table(&flows).write(terminal)?;
        }
    }
    Ok(Answers { answers: Vec::new(), silent }.report_silent(0, terminal))
}

fn table(flows: &[Flow]) -> Rows {
    let mut rows = Rows::new(&[
        "ORIGIN",
        "PEER",
        "PORT",
        "CLIENT-PORT",
        "STATE",
        "IDLE",
        "ALLOWED-NOW-BY",
        "NOTE",
    ]);
    for flow in flows {
        let peer = match &flow.peer {
            Some(peer) => format!("{peer} ({})", flow.remote),
            None => flow.remote.to_string(),
        };
        let (port, client) = match flow.origin.as_str() {
            "egress" => (flow.remote_port, flow.local_port),
            _ => (flow.local_port, flow.remote_port),
        };
        rows.add([
            flow.origin.clone(),
            peer,
            format!("{port}/{}", flow.protocol),
            client.to_string(),
            flow.state.clone(),
            format!("{}s", flow.idle_s),
            allowed_by(flow),
            or_dash(note(flow)),
        ]);
    }
    rows
}

fn allowed_by(flow: &Flow) -> String {
    match &flow.now {
        None => flow.rule.clone().unwrap_or_else(|| "-".to_owned()),
        Some(Now { is_allowed: false, .. }) => "nothing".to_owned(),
        Some(Now { rules, .. }) if rules.is_empty() => "-".to_owned(),
        Some(Now { rules, .. }) => rules.join(", "),
    }
}

/// What differs from when it began.
fn note(flow: &Flow) -> String {
    let Some(now) = &flow.now else { return String::new() };
    let began = match &flow.rule {
        // The agent appends the name of a rule in brackets.
        Some(rule) if now.rules.iter().any(|now| rule.starts_with(now.as_str())) => {
            return String::new();
        }
        Some(rule) => format!("began by {rule}, which does not allow it any more"),
        None if now.is_allowed => return String::new(),
        None => "began before the pod was isolated".to_owned(),
    };
    if now.is_allowed { began } else { format!("{began}; now {}", now.summary) }
}
