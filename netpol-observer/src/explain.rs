//! Explanations: why a connection is allowed or denied at a pod, by what its node has in force.
//!
//! In: a question about a pod of the namespace. Out: the verdict of that pod. Must not: say which labels a pod has that the user may not
//! see, or whether there is such a pod.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use netpol_common::ids::Direction;
use netpol_kube::Error;
use netpol_policy::model::ObjectName;
use netpol_policy::simulate::{DirectionExplanation, Explanation};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Question, Refusal, Server};
use super::links::Silence;
use super::paths::plain;
use super::protocol::{GROUP, VERSION};

/// The part of an agent's `/status` that is passed on.
#[derive(Debug, Deserialize)]
struct Status {
    is_in_force: bool,
    #[serde(default)]
    from_before: Option<Value>,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    pod: ObjectName,
    protection: String,
}

impl Server {
    /// Why a connection is allowed or denied at one of its ends, as its node has it in force.
    pub(super) async fn explain(&self, question: &Question) -> Result<Value, Refusal> {
        let field = |name: &str| {
            let value =
                question.fields.get(name).map(String::as_str).filter(|value| !value.is_empty());
            value.ok_or_else(|| Refusal::invalid(format!("{name} is missing")))
        };
        let (own, node) = self.pod(question, field("pod")?).await?;
        let peer = field("peer")?;
        self.check_peer(question, peer).await?;
        let port = plain("port", field("port")?)?;
        let protocol = plain("protocol", field("protocol")?)?;
        let direction: Direction = match field("direction")? {
            "egress" => Direction::Egress,
            "ingress" => Direction::Ingress,
            other => {
                return Err(Refusal::invalid(format!(
                    "direction: {other} is not egress or ingress"
                )));
            }
        };
        let (from, to) = match direction {
            Direction::Egress => (own.to_string(), peer.to_owned()),
            Direction::Ingress => (peer.to_owned(), own.to_string()),
        };
        let asked = format!("/explain?from={from}&to={to}&port={port}&protocol={protocol}");
        let unavailable = |reason: Silence| {
            let message = format!("node {node} does not answer: {reason}");
            match reason {
                Silence::Refused(message) => Refusal::invalid(message),
                Silence::NotConnected | Silence::Late | Silence::Broken(_) => {
                    Refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
                }
            }
        };
        let (explained, status) =
            futures::join!(self.links.ask(&node, &asked), self.links.ask(&node, "/status"));
        let misunderstood = |error: serde_json::Error| Silence::Broken(error.to_string());
        let read =
            explained.and_then(|value| Explanation::deserialize(value).map_err(misunderstood));
        let explained = read.map_err(unavailable)?;
        let read = status.and_then(|value| Status::deserialize(value).map_err(misunderstood));
        let status = read.map_err(unavailable)?;
        let (own_end, other_end) = match direction {
            Direction::Egress => (explained.egress, explained.ingress),
            Direction::Ingress => (explained.ingress, explained.egress),
        };
        let peer = other_end.map(|end: DirectionExplanation| end.pod);
        let seen = self.sees(question, peer.iter().map(|peer| Arc::clone(&peer.namespace))).await;
        let endpoint = status.endpoints.into_iter().find(|endpoint| endpoint.pod == own);
        Ok(json!({
            "kind": "Explanation", "apiVersion": format!("{GROUP}/{VERSION}"),
            "metadata": { "name": own.name, "namespace": own.namespace },
            "node": node, "direction": direction,
            "is_in_force": status.is_in_force && status.from_before.is_none(),
            "protection": endpoint.map(|endpoint| endpoint.protection),
            "problem": explained.problem,
            "decision": own_end.and_then(|end| seen.decision(end, peer.as_ref())),
        }))
    }

    /// A pod of the namespace, and its node.
    pub(super) async fn pod(
        &self,
        question: &Question,
        name: &str,
    ) -> Result<(ObjectName, String), Refusal> {
        let namespace = question.namespace.as_deref();
        let namespace =
            namespace.ok_or_else(|| Refusal::invalid("a pod needs a namespace in the path"))?;
        let name = ObjectName::new(namespace, plain("pod", name)?);
        let pods = Api::<Pod>::namespaced(self.access.client(), namespace);
        let pod = pods.get_opt(&name.name).await.map_err(Error::from)?;
        let Some(pod) = pod else {
            return Err(Refusal(
                StatusCode::NOT_FOUND,
                "NotFound",
                format!("pod {name} does not exist"),
            ));
        };
        let node = pod.spec.and_then(|spec| spec.node_name);
        let node = node.ok_or_else(|| {
            Refusal(
                StatusCode::CONFLICT,
                "Conflict",
                format!("pod {name} is on no node yet: spec.nodeName is empty"),
            )
        })?;
        Ok((name, node))
    }

    /// Refuses a peer whose namespace the user may not see: the answer would say whether it exists, and its address.
    async fn check_peer(&self, question: &Question, peer: &str) -> Result<(), Refusal> {
        if peer.parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        let (namespace, name) = peer.split_once('/').ok_or_else(|| {
            Refusal::invalid(format!("peer: {peer} is neither NAMESPACE/POD nor an IP address"))
        })?;
        plain("peer", name)?;
        let seen = self.sees(question, std::iter::once(Arc::from(plain("peer", namespace)?))).await;
        let is_own = question.namespace.as_deref() == Some(namespace);
        if question.namespace.is_some() && !is_own && !seen.others.contains(namespace) {
            let message = format!(
                "explanations.{GROUP} is forbidden: User \"{}\" cannot list them in the namespace \"{namespace}\" of the peer: give the peer's address instead",
                question.user.name
            );
            return Err(Refusal(StatusCode::FORBIDDEN, "Forbidden", message));
        }
        Ok(())
    }
}
