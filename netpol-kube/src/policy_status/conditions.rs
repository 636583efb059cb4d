//! The conditions of policies, from what is in force on the nodes.

use std::collections::BTreeMap;

use http::Request;
use http::header::CONTENT_TYPE;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Generation, InForce};
use crate::access::Error;
use crate::published::{limited, request_error};
use netpol_policy::model::{Diagnostic, convert};

/// The field manager of the conditions.
const MANAGER: &str = "netpol-policy-status";

/// Names of nodes that a message has, at most.
const MAX_NAMES: usize = 5;

/// Longest message, a limit of the API is 32,768.
const MAX_MESSAGE: usize = 1024;

#[derive(Deserialize)]
struct Policies {
    items: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Policy {
    metadata: Metadata,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    generation: i64,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
}

/// A `metav1.Condition`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    observed_generation: i64,
    #[serde(default)]
    last_transition_time: String,
    reason: String,
    message: String,
}

/// Reads the policies under a path and writes the conditions of those that have others. Returns the number of writes.
///
/// # Errors
/// [`Error::Request`] if the server cannot be reached or refuses a request, [`Error::Timeout`] if it does not respond,
/// [`Error::Answer`] if an answer cannot be decoded.
pub async fn evaluate(
    client: &Client,
    path: &str,
    nodes: &BTreeMap<String, InForce>,
) -> Result<usize, Error> {
    let request = Request::get(path).body(Vec::new()).map_err(request_error)?;
    let policies: Policies = serde_json::from_str(&limited(client.request_text(request)).await?)?;
    let mut n_writes = 0;
    for value in policies.items {
        let policy: Policy = serde_json::from_value(value.clone())?;
        let (_, diagnostics) = convert::cluster_policy(&value);
        let before = policy.status.unwrap_or_default().conditions;
        let after = conditions(&policy.metadata, &diagnostics, nodes);
        let is_there = |condition: &Condition| before.iter().any(|known| is_same(known, condition));
        if after.iter().all(is_there) {
            continue;
        }
        write(client, path, &policy.metadata.name, dated(after, &before)).await?;
        n_writes += 1;
    }
    Ok(n_writes)
}

fn is_same(one: &Condition, other: &Condition) -> bool {
    let of = |condition: &Condition| {
        let Condition {
            kind,
            status,
            observed_generation,
            last_transition_time: _,
            reason,
            message,
        } = condition.clone();
        (kind, status, observed_generation, reason, message)
    };
    of(one) == of(other)
}

/// The conditions with the times at which their status changed.
fn dated(mut conditions: Vec<Condition>, before: &[Condition]) -> Vec<Condition> {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string();
    for condition in &mut conditions {
        let known = before.iter().find(|known| {
            known.kind == condition.kind
                && known.status == condition.status
                && !known.last_transition_time.is_empty()
        });
        condition.last_transition_time =
            known.map_or_else(|| now.clone(), |known| known.last_transition_time.clone());
    }
    conditions
}

fn conditions(
    policy: &Metadata,
    diagnostics: &[Diagnostic],
    nodes: &BTreeMap<String, InForce>,
) -> Vec<Condition> {
    let condition = |kind: &str, is_true: bool, reason: &str, message: String| Condition {
        kind: kind.to_owned(),
        status: if is_true { "True" } else { "False" }.to_owned(),
        observed_generation: policy.generation,
        last_transition_time: String::new(),
        reason: reason.to_owned(),
        message: message.chars().take(MAX_MESSAGE).collect(),
    };
    let accepted = if diagnostics.is_empty() {
        condition("Accepted", true, "Accepted", "all of it is understood".to_owned())
    } else {
        let found = diagnostics.iter().map(|of| format!("{} {}", of.field, of.message));
        let message = found.collect::<Vec<_>>().join("; ");
        condition("Accepted", false, "Invalid", message)
    };
    let report_of = |in_force: &InForce| {
        let of = in_force.get(policy.name.as_str());
        let is_current =
            |of: &&Generation| *of.uid == *policy.uid && of.generation == policy.generation;
        of.filter(is_current).map(|of| of.is_over_capacity)
    };
    let (mut behind, mut exceeded) = (Vec::new(), Vec::new());
    for (node, in_force) in nodes {
        match report_of(in_force) {
            None => behind.push(node.as_str()),
            Some(true) => exceeded.push(node.as_str()),
            Some(false) => {}
        }
    }
    let (n, n_in_force) = (nodes.len(), nodes.len() - behind.len() - exceeded.len());
    let lacking =
        [listed(&behind, "not on"), listed(&exceeded, "rules exceed the capacity of the maps on")];
    let message = format!("in force on {n_in_force} of {n} nodes{}", lacking.concat());
    let programmed = match (behind.is_empty(), exceeded.is_empty()) {
        (true, true) => condition("Programmed", true, "Programmed", message),
        (false, _) => condition("Programmed", false, "Pending", message),
        (true, false) => condition("Programmed", false, "OverCapacity", message),
    };
    vec![accepted, programmed]
}

/// A part of a message that names the first nodes of a list; empty if there are none.
fn listed(nodes: &[&str], what: &str) -> String {
    let Some(named) = nodes.get(..nodes.len().min(MAX_NAMES)).filter(|named| !named.is_empty())
    else {
        return String::new();
    };
    let more = if nodes.len() > MAX_NAMES { " and others" } else { "" };
    format!("; {what} {}{more}", named.join(", "))
}

/// Writes the conditions of a policy by server-side apply on its status.
async fn write(
    client: &Client,
    path: &str,
    name: &str,
    conditions: Vec<Condition>,
) -> Result<(), Error> {
    let api_version: Vec<&str> = path.trim_start_matches("/apis/").split('/').take(2).collect();
    let body = json!({
        "apiVersion": api_version.join("/"),
        "kind": "ClusterNetworkPolicy",
        "metadata": { "name": name },
        "status": { "conditions": conditions },
    });
    let request = Request::patch(format!("{path}/{name}/status?fieldManager={MANAGER}&force=true"))
        .header(CONTENT_TYPE, "application/apply-patch+yaml")
        .body(body.to_string().into_bytes())
        .map_err(request_error)?;
    limited(client.request_text(request)).await.map(drop)
}
