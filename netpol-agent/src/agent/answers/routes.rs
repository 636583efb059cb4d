//! The HTTP paths of the control socket, and of the addresses for health and metrics.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::{StatusCode, Uri};
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::model::ObjectName;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::drops::{self, DropLog};
use super::explain;
use super::handle::Handle;
use super::policy;
use super::status::{Protection, SourceStatus, Status};
use crate::agent::clock::monotonic_now;
use crate::agent::state::Agent;
use crate::control::{Answer, Route};
use crate::own_process::OwnProcess;
use crate::telemetry;

/// Longest time that the event loop may take to answer. After that it counts as stuck.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a page for others is repeated.
const REPETITION: Duration = Duration::from_secs(1);

/// `/livez` and `/readyz`, for an address that others can reach: counts, and no names.
pub(in crate::agent) fn health<K: Kernel + Send + 'static>(handle: Handle<K>) -> Route {
    let live = repeated(REPETITION, {
        let handle = handle.clone();
        move || probe(handle.clone(), Probed::Liveness, Detail::Counts).boxed()
    });
    let ready = repeated(REPETITION, move || {
        probe(handle.clone(), Probed::Readiness, Detail::Counts).boxed()
    });
    Arc::new(move |uri| match uri.path() {
        "/livez" => live(),
        "/readyz" => ready(),
        _ => async move { unknown(&uri) }.boxed(),
    })
}

/// `/metrics`, for an address that others can reach.
pub(in crate::agent) fn metrics<K: Kernel + Send + 'static>(handle: Handle<K>) -> Route {
    let latest = repeated(REPETITION, move || {
        let handle = handle.clone();
        async move { render_metrics(&handle).await }.boxed()
    });
    Arc::new(move |uri| match uri.path() {
        "/metrics" => latest(),
        _ => async move { unknown(&uri) }.boxed(),
    })
}

/// Repeats a page for a while, so that requests cannot keep the event loop busy.
fn repeated(
    repetition: Duration,
    make: impl Fn() -> BoxFuture<'static, Page> + Send + Sync + 'static,
) -> impl Fn() -> BoxFuture<'static, Answer> + Send + Sync {
    let latest: Arc<Mutex<Option<(Instant, Page)>>> = Arc::default();
    let make = Arc::new(make);
    move || {
        let (latest, make) = (Arc::clone(&latest), Arc::clone(&make));
        async move {
            let mut latest = latest.lock().await;
            match &*latest {
                Some((at, page)) if at.elapsed() < repetition => page.clone().into(),
                _ => {
                    let page = make().await;
                    *latest = Some((Instant::now(), page.clone()));
                    page.into()
                }
            }
        }
        .boxed()
    }
}

/// All paths, for root on the node.
pub(in crate::agent) fn private<K: Kernel + Send + 'static>(
    handle: Handle<K>,
    log: DropLog,
) -> Route {
    Arc::new(move |uri| {
        let (handle, log) = (handle.clone(), log.clone());
        async move {
            match uri.path() {
                "/metrics" => render_metrics(&handle).await.into(),
                "/livez" => probe(handle, Probed::Liveness, Detail::Names).await.into(),
                "/readyz" => probe(handle, Probed::Readiness, Detail::Names).await.into(),
                "/status" => json(ask(&handle, |agent| agent.describe()).await),
                "/flows" => {
                    let pod = uri.query().and_then(|query| query.strip_prefix("pod="));
                    let pod = pod.and_then(|pod| pod.split_once('/'));
                    let pod = pod.map(|(namespace, name)| ObjectName::new(namespace, name));
                    let list = move |agent: &mut Agent<K>| match &pod {
                        Some(pod) => agent.name_flows_of(pod, monotonic_now()),
                        None => agent.name_flows(monotonic_now()),
                    };
                    match ask(&handle, list).await {
                        Some(Err(error)) => refused(&error),
                        flows => json(flows.and_then(Result::ok)),
                    }
                }
                "/rules" => match ask(&handle, |agent| agent.describe_rules(now())).await {
                    Some(Err(error)) => refused(&error),
                    rules => json(rules.and_then(Result::ok)),
                },
                "/policy" => match policy::question(uri.query().unwrap_or_default()) {
                    Err(message) => Answer::Refused(StatusCode::BAD_REQUEST, message),
                    Ok(policy) => {
                        let describe =
                            move |agent: &mut Agent<K>| agent.describe_policy(policy, now());
                        json(ask(&handle, describe).await)
                    }
                },
                "/explain" => match explain::question(uri.query().unwrap_or_default()) {
                    Err(message) => Answer::Refused(StatusCode::BAD_REQUEST, message),
                    Ok(probe) => {
                        json(ask(&handle, move |agent| agent.explain_on_node(&probe)).await)
                    }
                },
                "/drops" => match drops::wanted(uri.query().unwrap_or_default()) {
                    Err(message) => Answer::Refused(StatusCode::BAD_REQUEST, message),
                    Ok(wanted) => Answer::Lines(log.lines(wanted).await),
                },
                _ => unknown(&uri),
            }
        }
        .boxed()
    })
}

/// What the observer may ask: it decides who sees what of the answers.
pub(in crate::agent) fn observed<K: Kernel + Send + 'static>(
    handle: Handle<K>,
    log: DropLog,
) -> Route {
    let all = private(handle, log);
    Arc::new(move |uri| match uri.path() {
        "/drops" | "/flows" | "/explain" | "/status" => all(uri),
        _ => async move { unknown(&uri) }.boxed(),
    })
}

/// Which probe of the kubelet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probed {
    /// Whether the event loop answers.
    Liveness,
    /// Whether policies are in force.
    Readiness,
}

/// How much an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Detail {
    /// Kinds and numbers.
    Counts,
    /// Names and errors too.
    Names,
}

async fn probe<K: Kernel + Send + 'static>(
    handle: Handle<K>,
    probed: Probed,
    detail: Detail,
) -> Page {
    let Some(status) = ask(&handle, |agent| agent.describe()).await else { return Page::stuck() };
    let (reasons, notes) = match probed {
        Probed::Liveness => (Vec::new(), Vec::new()),
        Probed::Readiness => (unreadiness(&status, detail), staleness(&status, detail)),
    };
    if reasons.is_empty() {
        let lines = ["ok".to_owned()].into_iter().chain(notes);
        Page::text(lines.map(|line| line + "\n").collect())
    } else {
        Page::refused(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n"))
    }
}

async fn render_metrics<K: Kernel + Send + 'static>(handle: &Handle<K>) -> Page {
    let internal = |error: &dyn std::error::Error| {
        Page::refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    };
    match ask(handle, |agent| agent.metrics(now())).await {
        None => Page::stuck(),
        Some(Err(error)) => internal(&error),
        Some(Ok(metrics)) => match telemetry::render(metrics, OwnProcess::read()) {
            Ok(text) => Page { content_type: telemetry::CONTENT_TYPE, ..Page::text(text) },
            Err(error) => internal(&error),
        },
    }
}

/// A short answer.
#[derive(Clone, Debug)]
struct Page {
    status: StatusCode,
    content_type: &'static str,
    text: String,
}

impl Page {
    fn text(text: String) -> Self {
        Self { status: StatusCode::OK, content_type: "text/plain; charset=utf-8", text }
    }

    fn refused(status: StatusCode, text: String) -> Self {
        Self { status, ..Self::text(text) }
    }

    fn stuck() -> Self {
        let text = "the event loop does not answer".to_owned();
        Self::refused(StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

impl From<Page> for Answer {
    fn from(Page { status, content_type, text }: Page) -> Self {
        match status {
            StatusCode::OK => Self::Text(content_type, text),
            _ => Self::Refused(status, text),
        }
    }
}

/// The reasons why the agent is not ready, one line each.
pub(in crate::agent) fn unreadiness(status: &Status, detail: Detail) -> Vec<String> {
    let mut reasons: Vec<String> = status
        .from_before
        .iter()
        .map(|from_before| format!("policies are {from_before}"))
        .collect();
    // A broken watch alone does not make the agent unready, because the listed objects stay in force.
    for kind in &status.missing {
        reasons.push(match (status.sources.get(kind), detail) {
            (Some(SourceStatus::Broken { error, since_s: _ }), Detail::Names) => {
                format!("not listed yet: {kind}: {error}")
            }
            _ => format!("not listed yet: {kind}"),
        });
    }
    if status.missing.is_empty() && !status.is_in_force {
        reasons.push("the maps do not hold the current policies; see the agent's log".to_owned());
    }
    if let Some(error) = &status.blind {
        reasons.push(format!("the kernel does not report which programs are attached: {error}"));
        return reasons;
    }
    let unprotected = status.endpoints.iter();
    let unprotected = unprotected.filter(|endpoint| endpoint.protection == Protection::Unprotected);
    match detail {
        Detail::Counts => match unprotected.count() {
            0 => {}
            n => reasons.push(format!("unprotected pods: {n}")),
        },
        Detail::Names => reasons.extend(unprotected.map(|endpoint| {
            let reason = match endpoint.ifindex {
                0 => "its interface has not been found".to_owned(),
                ifindex => format!("interface {ifindex} has no programs"),
            };
            format!("unprotected: pod {}: {reason}", endpoint.pod)
        })),
    }
    reasons
}

/// The kinds that are out of date, one line each. The agent is ready all the same, because its policies are in force.
fn staleness(status: &Status, detail: Detail) -> Vec<String> {
    let stale = status.sources.iter().filter_map(|(kind, source)| match (source, detail) {
        (SourceStatus::Broken { error, since_s }, Detail::Names) => {
            Some(format!("out of date for {since_s} s: {kind}: {error}"))
        }
        (SourceStatus::Broken { error: _, since_s }, Detail::Counts) => {
            Some(format!("out of date for {since_s} s: {kind}"))
        }
        (SourceStatus::Listing | SourceStatus::Synced { .. }, _) => None,
    });
    stale.collect()
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

#[expect(clippy::disallowed_methods, reason = "the state gets the time from here")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

fn stuck() -> Answer {
    Page::stuck().into()
}

fn refused(error: &dyn std::error::Error) -> Answer {
    Answer::Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn unknown(uri: &Uri) -> Answer {
    Answer::Refused(StatusCode::NOT_FOUND, format!("no such path: {}", uri.path()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use netpol_policy::model::Kind;
    use netpol_policy::source::{Health, SourceUpdate};

    use super::*;
    use crate::agent::tests::{Fixture, fixture, full_lists, pod, update};

    fn broken(fixture: &mut Fixture) {
        let health = Health::Broken { since: fixture.now, error: Arc::from("10.96.0.1: timeout") };
        let health = vec![(Kind::Pod, health)];
        drop(fixture.agent.update(SourceUpdate { health, ..SourceUpdate::default() }));
    }

    #[test]
    fn others_get_counts_and_root_gets_names() {
        let mut fixture = fixture();
        fixture.agent = fixture.agent.on_node(Some(Arc::from("n")));
        broken(&mut fixture);
        let status = fixture.agent.describe();
        assert!(unreadiness(&status, Detail::Counts).contains(&"not listed yet: Pod".to_owned()));
        let named = "not listed yet: Pod: 10.96.0.1: timeout".to_owned();
        assert!(unreadiness(&status, Detail::Names).contains(&named));

        drop(fixture.agent.update(full_lists()));
        drop(fixture.agent.update(update(pod("a"))));
        fixture.agent.adopt(Vec::new(), fixture.now);
        fixture.agent.sync();
        let status = fixture.agent.describe();
        assert_eq!(unreadiness(&status, Detail::Counts), ["unprotected pods: 1"]);
        let named = "unprotected: pod x/a: its interface has not been found";
        assert_eq!(unreadiness(&status, Detail::Names), [named]);
        // Listed once, the source only makes the agent say how old its objects are.
        assert_eq!(staleness(&status, Detail::Counts), ["out of date for 0 s: Pod"]);
        let named = "out of date for 0 s: Pod: 10.96.0.1: timeout";
        assert_eq!(staleness(&status, Detail::Names), [named]);
    }

    #[tokio::test]
    async fn a_page_for_others_is_rendered_once_in_a_while() {
        for (repetition, expected) in [(Duration::MAX, 1), (Duration::ZERO, 10)] {
            let n_rendered = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&n_rendered);
            let page = repeated(repetition, move || {
                counted.fetch_add(1, Ordering::Relaxed);
                async { Page::text(String::new()) }.boxed()
            });
            for _ in 0..10 {
                drop(page().await);
            }
            assert_eq!(n_rendered.load(Ordering::Relaxed), expected);
        }
    }
}
