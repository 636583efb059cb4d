//! The other route to the agents: through `netpol-observer`, in the API of the cluster, for users who may not run commands in their pods.
//!
//! In: a namespace whose drops, connections and explanations RBAC lets the user see. Out: the same answers as from the agents, without
//! what belongs to other namespaces. Must not: ask for more than the command needs.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use futures::AsyncBufReadExt as _;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;
use netpol_kube::Error;
use netpol_policy::model::ObjectName;
use netpol_policy::simulate::DirectionExplanation;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::cluster::{Agent, Answers, Cluster, Silent, message, within};
use super::follow::Followed;

/// The API that the observer serves.
const API: &str = "/apis/observe.netpol.dev/v1alpha1";

/// Time limit for an answer, in which the observer asks all nodes.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Records that wait for the terminal.
const QUEUE: usize = 4096;

/// Pause after a watch that has ended.
const PAUSE: Duration = Duration::from_secs(1);

/// The route to the agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Through {
    /// `exec` if you may run commands in the agents' pods, else `observer`.
    #[default]
    Auto,
    /// Commands in the agents' pods, as `kubectl exec`: for administrators.
    Exec,
    /// `netpol-observer`, if it is installed: for everybody whom RBAC lets see `drops`, `flows` and `explanations` of a namespace.
    Observer,
}

/// A route that has been chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Exec,
    Observer,
}

/// The option of the commands for which there are two routes.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct ThroughArgs {
    /// How to ask the agents.
    #[arg(long, value_enum, value_name = "ROUTE", default_value_t)]
    through: Through,
}

/// A list of the observer.
#[derive(Deserialize)]
struct List {
    items: Vec<Item>,
    unanswered: Vec<Unanswered>,
}

#[derive(Deserialize)]
struct Item {
    node: String,
    record: Value,
}

#[derive(Deserialize)]
struct Unanswered {
    node: String,
    reason: String,
}

/// A line of a watch.
#[derive(Deserialize)]
struct Line {
    object: Object,
}

#[derive(Deserialize)]
#[serde(tag = "kind")]
enum Object {
    Drop { node: String, record: Value },
    NotShown { node: String, record: Value },
    NodeState { node: String, silent: Option<String> },
    Status { message: String },
}

/// One end of a connection, as its node has it in force.
#[derive(Deserialize)]
pub(super) struct Explained {
    pub(super) node: String,
    pub(super) is_in_force: bool,
    pub(super) protection: Option<String>,
    pub(super) problem: Option<String>,
    pub(super) decision: Option<DirectionExplanation>,
}

impl ThroughArgs {
    /// Chooses the route.
    pub(super) async fn route(self, cluster: &Cluster) -> Route {
        match self.through {
            Through::Exec => Route::Exec,
            Through::Observer => Route::Observer,
            Through::Auto => {
                if may_exec(cluster).await || !is_served(cluster).await {
                    Route::Exec
                } else {
                    Route::Observer
                }
            }
        }
    }
}

/// Whether the user may run commands in the agents' pods. Without an answer it is tried.
async fn may_exec(cluster: &Cluster) -> bool {
    let attributes = ResourceAttributes {
        namespace: Some(cluster.agent_namespace.clone()),
        verb: Some("create".to_owned()),
        resource: Some("pods".to_owned()),
        subresource: Some("exec".to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec {
        resource_attributes: Some(attributes),
        ..SelfSubjectAccessReviewSpec::default()
    };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let reviews = Api::<SelfSubjectAccessReview>::all(cluster.client.clone());
    let answer = within(TIMEOUT, reviews.create(&PostParams::default(), &review)).await;
    answer.map_or(true, |review| review.status.is_none_or(|status| status.allowed))
}

async fn is_served(cluster: &Cluster) -> bool {
    get::<Value>(cluster, API).await.is_ok()
}

async fn get<T: for<'de> Deserialize<'de>>(cluster: &Cluster, path: &str) -> anyhow::Result<T> {
    let request = http::Request::get(path).body(Vec::new())?;
    within(TIMEOUT, cluster.client.request(request)).await.map_err(|error| explained(&error))
}

/// An error of the API server, and what it needs.
fn explained(error: &Error) -> anyhow::Error {
    let text = message(error);
    match error.status() {
        Some(404) => text.context(
            "netpol-observer is not installed in this cluster, or the object does not exist",
        ),
        Some(403) => {
            text.context("RBAC lets you not see it (docs/live.md: the role netpol-observe)")
        }
        Some(503) => text.context("netpol-observer does not answer"),
        Some(_) | None => text,
    }
}

/// The path of a resource of a namespace, or of all of them.
fn path(namespace: Option<&str>, resource: &str, fields: &[(&str, &str)]) -> String {
    let place = namespace.map_or_else(String::new, |namespace| format!("/namespaces/{namespace}"));
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    format!("{API}{place}/{resource}?{}", fields.join("&"))
}

impl List {
    /// As if the agents had been asked: each answer is an array.
    fn into_answers(self) -> Answers {
        let Self { items, unanswered } = self;
        let mut by_node: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for Item { node, record } in items {
            by_node.entry(node).or_default().push(record);
        }
        let answers = by_node
            .into_iter()
            .map(|(node, records)| (Agent { node, pod: String::new() }, Value::Array(records)));
        let silent =
            unanswered.into_iter().map(|Unanswered { node, reason }| Silent { node, reason });
        Answers { answers: answers.collect(), silent: silent.collect() }
    }
}

impl Cluster {
    /// The latest drops of the pods of a namespace, or of all.
    ///
    /// # Errors
    /// The API server or the observer refuses.
    pub(super) async fn observed_drops(
        &self,
        namespace: Option<&str>,
        since: Option<Duration>,
    ) -> anyhow::Result<Answers> {
        let seconds = since.map(|since| since.as_secs().to_string());
        let fields: Vec<_> = seconds.iter().map(|seconds| ("since", seconds.as_str())).collect();
        let list: List = get(self, &path(namespace, "drops", &fields)).await?;
        Ok(list.into_answers())
    }

    /// The live connections of a pod.
    ///
    /// # Errors
    /// The API server or the observer refuses.
    pub(super) async fn observed_flows(&self, pod: &ObjectName) -> anyhow::Result<Answers> {
        let path = path(Some(&pod.namespace), "flows", &[("pod", &pod.name)]);
        let list: List = get(self, &path).await?;
        Ok(list.into_answers())
    }

    /// Why a connection is allowed or denied at a pod, which is its source (`egress`) or its destination (`ingress`).
    ///
    /// # Errors
    /// The API server or the observer refuses.
    pub(super) async fn observed_end(
        &self,
        pod: &ObjectName,
        direction: &str,
        peer: &str,
        (port, protocol): (&str, &str),
    ) -> anyhow::Result<Explained> {
        let fields = [
            ("pod", &*pod.name),
            ("direction", direction),
            ("peer", peer),
            ("port", port),
            ("protocol", protocol),
        ];
        get(self, &path(Some(&pod.namespace), "explanations", &fields)).await
    }

    /// Follows the drops of the pods of a namespace, or of all. Ends when the receiver is dropped.
    ///
    /// # Errors
    /// The API server or the observer refuses.
    pub(super) async fn follow_observed(
        &self,
        namespace: Option<&str>,
        since: Duration,
    ) -> anyhow::Result<mpsc::Receiver<Followed>> {
        let first = self.watch(namespace, since).await?;
        let (records, received) = mpsc::channel(QUEUE);
        let (cluster, namespace) = (self.clone(), namespace.map(str::to_owned));
        tokio::spawn(async move {
            let mut latest = BTreeMap::new();
            let mut watch = Some(first);
            loop {
                let reason = match watch.take() {
                    Some(watch) => tokio::select! {
                        ended = pass_on(watch, &mut latest, &records) => match ended {
                            Ok(()) => "the watch has ended".to_owned(),
                            Err(error) => format!("{error:#}"),
                        },
                        () = records.closed() => return,
                    },
                    None => match cluster.watch(namespace.as_deref(), since + TIMEOUT).await {
                        Ok(begun) => {
                            watch = Some(begun);
                            drop(records.send(Followed::Back(OBSERVER.to_owned())).await);
                            continue;
                        }
                        Err(error) => format!("{error:#}"),
                    },
                };
                let silent = Silent { node: OBSERVER.to_owned(), reason };
                if records.send(Followed::Silent(silent)).await.is_err() {
                    return;
                }
                sleep(PAUSE).await;
            }
        });
        Ok(received)
    }

    async fn watch(&self, namespace: Option<&str>, since: Duration) -> anyhow::Result<Watch> {
        let seconds = since.as_secs().to_string();
        let path = path(namespace, "drops", &[("watch", "true"), ("since", &seconds)]);
        let request = http::Request::get(path).body(Vec::new())?;
        let begun = timeout(TIMEOUT, self.client.request_stream(request)).await;
        let begun = begun.with_context(|| format!("no answer within {} s", TIMEOUT.as_secs()))?;
        let stream = begun.map_err(|error| explained(&Error::from(error)))?;
        Ok(Box::pin(stream))
    }
}

/// The lines of a watch, before they are read.
type Watch = std::pin::Pin<Box<dyn futures::AsyncBufRead + Send>>;

/// What stands for the node in messages about the observer itself.
const OBSERVER: &str = "(observer)";

/// Sends the records of a watch, without those that an earlier one has sent.
async fn pass_on(
    watch: impl futures::AsyncBufRead + Unpin,
    latest: &mut BTreeMap<String, u64>,
    records: &mpsc::Sender<Followed>,
) -> anyhow::Result<()> {
    use futures::StreamExt as _;
    // The clocks of two nodes differ.
    let sent = latest.clone();
    let mut lines = watch.lines();
    while let Some(line) = lines.next().await {
        let Line { object } = serde_json::from_str(&line?).context("a line of the observer")?;
        let followed = match object {
            Object::Drop { node, record } | Object::NotShown { node, record } => {
                let at_ms = record.get("unix_ms").and_then(Value::as_u64).unwrap_or_default();
                if sent.get(&node).is_some_and(|sent| at_ms <= *sent) {
                    continue;
                }
                let latest = latest.entry(node.clone()).or_default();
                *latest = (*latest).max(at_ms);
                Followed::Record(node, record)
            }
            Object::NodeState { node, silent: Some(reason) } => {
                Followed::Silent(Silent { node, reason })
            }
            Object::NodeState { node, silent: None } => Followed::Back(node),
            Object::Status { message } => bail!("{message}"),
        };
        if records.send(followed).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_escapes_what_is_asked_for() {
        let found = path(Some("shop"), "flows", &[("pod", "web"), ("peer", "ops/db&x")]);
        assert_eq!(
            found,
            "/apis/observe.netpol.dev/v1alpha1/namespaces/shop/flows?pod=web&peer=ops%2Fdb%26x"
        );
        assert_eq!(path(None, "drops", &[]), "/apis/observe.netpol.dev/v1alpha1/drops?");
    }

    #[tokio::test]
    async fn a_watch_repeats_nothing_and_ends_at_an_error() {
        let line = |ms: u64| {
            format!(
                r#"{{"type":"ADDED","object":{{"kind":"Drop","node":"n","record":{{"unix_ms":{ms}}}}}}}"#
            )
        };
        let text = [line(5), line(9)].join("\n");
        let (records, mut received) = mpsc::channel(8);
        let mut latest = BTreeMap::from([("n".to_owned(), 5), ("m".to_owned(), 70)]);
        pass_on(text.as_bytes(), &mut latest, &records).await.unwrap();
        assert!(
            matches!(received.try_recv(), Ok(Followed::Record(_, record)) if record["unix_ms"] == 9)
        );
        assert_eq!((latest["n"], received.try_recv().is_err()), (9, true));
        let error = r#"{"type":"ERROR","object":{"kind":"Status","message":"gone"}}"#;
        assert!(pass_on(error.as_bytes(), &mut latest, &records).await.is_err());
    }
}
