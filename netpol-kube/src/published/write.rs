//! Writes the own node's object, and finds out whether the API server keeps agents to their own.

use std::future::Future;
use std::time::Duration;

use http::Request;
use http::header::CONTENT_TYPE;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::Api;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{GUARD, KEY, LABEL, NAMESPACE, text};
use crate::access::Error;
use crate::request::{self, Scope};
use netpol_policy::model::Kind;
use netpol_policy::store::PublishedPod;

/// Time limit for the response.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The field manager.
const MANAGER: &str = "netpol-agent";

/// Whether the API server keeps each agent to the object of its own node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// It does.
    InPlace,
    /// It has no such policy: it is older than Kubernetes 1.30, or the policy or its binding is not installed.
    Missing,
}

/// Asks for the `ValidatingAdmissionPolicy` [`GUARD`] and its binding. The version of their API is that of Kubernetes 1.30, whose tokens
/// are the first that name their node.
///
/// # Errors
/// [`Error::Request`] if the server cannot be reached or refuses the request, [`Error::Timeout`] if it does not respond.
pub async fn guard(client: &Client) -> Result<Guard, Error> {
    for plural in ["validatingadmissionpolicies", "validatingadmissionpolicybindings"] {
        let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}/{GUARD}");
        let request = Request::get(path).body(Vec::new()).map_err(request_error)?;
        match limited(client.request_text(request)).await {
            Ok(_) => {}
            Err(error) if error.status() == Some(404) => return Ok(Guard::Missing),
            Err(error) => return Err(error),
        }
    }
    Ok(Guard::InPlace)
}

/// The uid of a Node; `None` if it does not exist.
///
/// # Errors
/// Those of [`guard`], and [`Error::Answer`] if the answer cannot be decoded.
pub async fn node_uid(client: &Client, node: &str) -> Result<Option<String>, Error> {
    #[derive(Deserialize)]
    struct Nodes {
        items: Vec<Node>,
    }
    #[derive(Deserialize)]
    struct Node {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        uid: String,
    }
    // A list of one, because the agent may list nodes and not get them.
    let scope = Scope { kind: Kind::Node, name: Some(node.to_owned()), path: None };
    let nodes: Nodes = serde_json::from_str(&request::list(client, &scope, 1, None).await?)?;
    Ok(nodes.items.into_iter().next().map(|node| node.metadata.uid))
}

/// What the object of a node says; nothing if there is none.
///
/// # Errors
/// Those of [`guard`].
pub async fn published(client: &Client, node: &str) -> Result<Vec<PublishedPod>, Error> {
    let objects: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let object = limited(objects.get_opt(node)).await?;
    let data = object.and_then(|object| object.data).unwrap_or_default();
    Ok(data.get(KEY).map(|said| text::read(said)).unwrap_or_default())
}

/// Writes the object of a node, by server-side apply. It is deleted with the Node of this uid. Returns the length of the request in
/// bytes.
///
/// # Errors
/// Those of [`guard`].
pub async fn publish(
    client: &Client,
    node: &str,
    node_uid: &str,
    pods: &[PublishedPod],
) -> Result<usize, Error> {
    let object = object(node, node_uid, pods).to_string().into_bytes();
    let n_bytes = object.len();
    let path = format!(
        "/api/v1/namespaces/{NAMESPACE}/configmaps/{node}?fieldManager={MANAGER}&force=true"
    );
    let request = Request::patch(path)
        .header(CONTENT_TYPE, "application/apply-patch+yaml")
        .body(object)
        .map_err(request_error)?;
    limited(client.request_text(request)).await?;
    Ok(n_bytes)
}

fn object(node: &str, node_uid: &str, pods: &[PublishedPod]) -> Value {
    let [label, value] = LABEL;
    let owner = json!({ "apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid });
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": node,
            "namespace": NAMESPACE,
            "labels": { label: value },
            "ownerReferences": [owner],
        },
        "data": { KEY: text::write(pods) },
    })
}

/// The answer to a request, within a time limit.
pub(crate) async fn limited<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    let answer = timeout(ANSWER_TIMEOUT, request).await;
    Ok(answer.map_err(|_elapsed| Error::Timeout { timeout: ANSWER_TIMEOUT })??)
}

/// A request that cannot be made.
pub(crate) fn request_error(error: http::Error) -> kube::Error {
    kube::Error::BuildRequest(kube::core::request::Error::BuildRequest(error))
}
