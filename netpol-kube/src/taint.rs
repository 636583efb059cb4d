//! Removes a taint from a Node.
//!
//! The patch names the taint and its place, so it changes nothing else, and fails if the list of taints has changed meanwhile.

use std::time::Duration;

use http::Request;
use http::header::CONTENT_TYPE;
use kube::Client;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::access::Error;
use super::request::{self, Scope};
use netpol_policy::model::Kind;

/// Time limit for the response.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether there was a taint to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It has been removed.
    Removed,
    /// The Node does not have it, or does not exist.
    NotThere,
}

#[derive(Deserialize)]
struct Nodes {
    items: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default)]
    taints: Option<Vec<Taint>>,
}

#[derive(Deserialize)]
struct Taint {
    key: String,
}

/// Removes the taint with this key from a Node, whatever its effect. Of several one is removed.
///
/// # Errors
/// [`Error::Request`] if the server cannot be reached or refuses, also because the taints have just changed; [`Error::Timeout`] if it
/// does not respond, [`Error::Answer`] if the answer cannot be decoded.
pub async fn remove_taint(client: &Client, node: &str, key: &str) -> Result<Removal, Error> {
    // A list of one, because the agent may list nodes and not get them.
    let scope = Scope { kind: Kind::Node, name: Some(node.to_owned()), path: None };
    let nodes: Nodes = serde_json::from_str(&request::list(client, &scope, 1, None).await?)?;
    let taints = nodes.items.into_iter().find_map(|node| node.spec.taints).unwrap_or_default();
    let Some(place) = taints.iter().position(|taint| taint.key == key) else {
        return Ok(Removal::NotThere);
    };
    let patch = json!([
        { "op": "test", "path": format!("/spec/taints/{place}/key"), "value": key },
        { "op": "remove", "path": format!("/spec/taints/{place}") },
    ]);
    let request = Request::patch(format!("/api/v1/nodes/{node}"))
        .header(CONTENT_TYPE, "application/json-patch+json")
        .body(patch.to_string().into_bytes())
        .map_err(|error| {
            kube::Error::BuildRequest(kube::core::request::Error::BuildRequest(error))
        })?;
    let answer = timeout(ANSWER_TIMEOUT, client.request_text(request)).await;
    answer.map_err(|_elapsed| Error::Timeout { timeout: ANSWER_TIMEOUT })??;
    Ok(Removal::Removed)
}
