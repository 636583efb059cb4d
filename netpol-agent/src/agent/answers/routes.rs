//! The HTTP paths of the control socket and of the health address.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, stream};
use hyper::{StatusCode, Uri};
use netpol_policy::dataplane::port::Kernel;
use serde::Serialize;
use tokio::time::timeout;

use super::drops::DropLog;
use super::explain;
use super::handle::Handle;
use super::status::{Protection, SourceStatus, Status};
use crate::agent::clock::monotonic_now;
use crate::agent::state::Agent;
use crate::control::{Answer, Route};
use crate::telemetry;

/// Longest time that the event loop may take to answer. After that it counts as stuck.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Health and metrics, for an address that everybody can reach.
pub(in crate::agent) fn public<K: Kernel + Send + 'static>(handle: Handle<K>) -> Route {
    Arc::new(move |uri| {
        let handle = handle.clone();
        async move { health(&handle, &uri).await.unwrap_or_else(|| unknown(&uri)) }.boxed()
    })
}

/// All paths, for root on the node.
pub(in crate::agent) fn private<K: Kernel + Send + 'static>(
    handle: Handle<K>,
    drops: DropLog,
) -> Route {
    Arc::new(move |uri| {
        let (handle, drops) = (handle.clone(), drops.clone());
        async move {
            if let Some(answer) = health(&handle, &uri).await {
                return answer;
            }
            match uri.path() {
                "/status" => json(ask(&handle, |agent| agent.describe()).await),
                "/flows" => match ask(&handle, |agent| agent.name_flows(monotonic_now())).await {
                    Some(Err(error)) => refused(&error),
                    flows => json(flows.and_then(Result::ok)),
                },
                "/explain" => match explain::question(uri.query().unwrap_or_default()) {
                    Err(message) => Answer::Refused(StatusCode::BAD_REQUEST, message),
                    Ok(probe) => json(ask(&handle, move |agent| agent.explain(&probe)).await),
                },
                "/drops" if uri.query() == Some("follow") => Answer::Lines(drops.follow().await),
                "/drops" => {
                    let lines = drops.latest().await;
                    Answer::Lines(stream::iter(lines).map(|line| line.to_string()).boxed())
                }
                _ => unknown(&uri),
            }
        }
        .boxed()
    })
}

async fn health<K: Kernel + Send + 'static>(handle: &Handle<K>, uri: &Uri) -> Option<Answer> {
    let is_ready_asked = match uri.path() {
        "/metrics" => return Some(metrics(handle).await),
        "/livez" => false,
        "/readyz" => true,
        _ => return None,
    };
    let Some(status) = ask(handle, |agent| agent.describe()).await else { return Some(stuck()) };
    let reasons = if is_ready_asked { unreadiness(&status) } else { Vec::new() };
    Some(if reasons.is_empty() {
        Answer::Text("text/plain; charset=utf-8", "ok\n".to_owned())
    } else {
        Answer::Refused(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n"))
    })
}

async fn metrics<K: Kernel + Send + 'static>(handle: &Handle<K>) -> Answer {
    match ask(handle, |agent| agent.metrics()).await {
        None => stuck(),
        Some(Err(error)) => refused(&error),
        Some(Ok(metrics)) => match telemetry::render(metrics) {
            Ok(text) => Answer::Text(telemetry::CONTENT_TYPE, text),
            Err(error) => refused(&error),
        },
    }
}

/// The reasons why the agent is not ready, one line each.
pub(in crate::agent) fn unreadiness(status: &Status) -> Vec<String> {
    let mut reasons = Vec::new();
    // A broken watch alone does not make the agent unready, because the listed objects stay in force.
    for kind in &status.missing {
        reasons.push(match status.sources.get(kind) {
            Some(SourceStatus::Broken { error, since_s: _ }) => {
                format!("not listed yet: {kind}: {error}")
            }
            Some(SourceStatus::Listing | SourceStatus::Synced { .. }) | None => {
                format!("not listed yet: {kind}")
            }
        });
    }
    if reasons.is_empty() && !status.is_in_force {
        reasons.push("the maps do not hold the current policies; see the agent's log".to_owned());
    }
    if let Some(error) = &status.blind {
        reasons.push(format!("the kernel does not report which programs are attached: {error}"));
        return reasons;
    }
    for endpoint in &status.endpoints {
        if endpoint.protection == Protection::Unprotected {
            let reason = match endpoint.ifindex {
                0 => "its interface has not been found".to_owned(),
                ifindex => format!("interface {ifindex} has no programs"),
            };
            reasons.push(format!("unprotected: pod {}: {reason}", endpoint.pod));
        }
    }
    reasons
}

async fn ask<K: Kernel + Send + 'static, R: Send + 'static>(
    handle: &Handle<K>,
    question: impl FnOnce(&mut Agent<K>) -> R + Send + 'static,
) -> Option<R> {
    timeout(TIMEOUT, handle.ask(question)).await.ok().flatten()
}

fn json(value: Option<impl Serialize>) -> Answer {
    let Some(value) = value else { return stuck() };
    match serde_json::to_string(&value) {
        Ok(text) => Answer::Json(text),
        Err(error) => refused(&error),
    }
}

fn stuck() -> Answer {
    Answer::Refused(StatusCode::SERVICE_UNAVAILABLE, "the event loop does not answer".to_owned())
}

fn refused(error: &dyn std::error::Error) -> Answer {
    Answer::Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn unknown(uri: &Uri) -> Answer {
    Answer::Refused(StatusCode::NOT_FOUND, format!("no such path: {}", uri.path()))
}
