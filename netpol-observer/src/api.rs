//! The aggregated API: `drops`, `flows` and `explanations` of a namespace.
//!
//! In: requests that the API server passes on, with the user. Out: lists and watches as Kubernetes has them, with `unanswered` for the
//! nodes that do not answer. Must not: answer before RBAC allows it; tell a user of another namespace more than an address.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use netpol_common::ids::Direction;
use netpol_kube::{Access, Error};
use netpol_policy::model::ObjectName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::follow;
use super::front_proxy::FrontProxy;
use super::links::{Links, Silence};
use super::paths::{Resource, discovery, fields, resource_of};
use super::protocol::{GROUP, VERSION};
use super::records::{DropRecord, FlowRecord, Seen, namespaces_of};
use super::rights::{Deed, Rights, User};
use super::table::{ListForm, Table};

/// Questions that are under way at the same time, for one request.
const MAX_CONCURRENT: usize = 64;

/// How long the list of nodes is used.
const NODES_REPETITION: Duration = Duration::from_secs(10);

/// How old a drop may be when a watch begins, unless the request says otherwise.
const SINCE: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What answers need.
pub(super) struct Server {
    pub(super) access: Access,
    pub(super) links: Links,
    pub(super) feed: follow::Feed,
    rights: Rights,
    nodes: Mutex<Option<(Instant, BTreeSet<String>)>>,
}

/// A question about a namespace, or about all of them.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) user: User,
    resource: Resource,
    pub(super) namespace: Option<String>,
    pub(super) since: Duration,
    pub(super) fields: BTreeMap<String, String>,
}

/// How an agent writes a list.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// One JSON document.
    Document,
    /// One JSON object a line.
    Lines,
}

/// An error answer.
pub(super) struct Refusal(pub(super) StatusCode, pub(super) &'static str, pub(super) String);

impl Refusal {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, "BadRequest", message.into())
    }
}

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self::invalid(message)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", error.to_string())
    }
}

/// A node that does not answer.
#[derive(Debug, Serialize)]
struct Unanswered {
    node: String,
    reason: String,
}

/// Answers one request, on a connection with this certificate.
pub(super) async fn answer(
    server: Arc<Server>,
    front_proxy: &FrontProxy,
    certificate: Option<&CertificateDer<'_>>,
    request: Request<Incoming>,
) -> Response<Body> {
    let answered = respond(server, front_proxy, certificate, &request).await;
    answered.unwrap_or_else(|Refusal(code, reason, message)| {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code.as_u16(),
        });
        document(code, &status)
    })
}

async fn respond(
    server: Arc<Server>,
    front_proxy: &FrontProxy,
    certificate: Option<&CertificateDer<'_>>,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path();
    if ["/livez", "/readyz", "/healthz"].contains(&path) {
        return Ok(response(StatusCode::OK, "text/plain", full("ok\n".to_owned())));
    }
    let user = front_proxy.user(certificate, request.headers()).ok_or_else(|| {
        let message = "only the API server may ask, by its client certificate for aggregation";
        Refusal(StatusCode::UNAUTHORIZED, "Unauthorized", message.to_owned())
    })?;
    if request.method() != Method::GET {
        let message = format!("{} is not supported", request.method());
        return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message));
    }
    if let Some(found) = discovery(path) {
        return Ok(document(StatusCode::OK, &found));
    }
    let not_found = || {
        Refusal(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource".to_owned(),
        )
    };
    let (resource, namespace) = resource_of(path).ok_or_else(not_found)?;
    let fields = fields(request.uri().query().unwrap_or_default());
    let watches = fields.get("watch").is_some_and(|watch| watch == "true" || watch == "1");
    let verb = if watches { "watch" } else { "list" };
    let deed = Deed { verb, resource: resource.name(), namespace: namespace.clone() };
    // The API server has asked its RBAC already. Not only the API server can reach this port.
    if !server.rights.may(&user, &deed).await? {
        let place = namespace
            .map_or_else(String::new, |namespace| format!(" in the namespace \"{namespace}\""));
        let message = format!(
            "{}.{GROUP} is forbidden: User \"{}\" cannot {verb} resource \"{0}\" in API group \"{GROUP}\"{place}",
            resource.name(),
            user.name
        );
        return Err(Refusal(StatusCode::FORBIDDEN, "Forbidden", message));
    }
    let since = match fields.get("since") {
        Some(seconds) => Duration::from_secs(
            seconds.parse().map_err(|error| Refusal::invalid(format!("since: {error}")))?,
        ),
        None => SINCE,
    };
    let question = Question { user, resource, namespace, since, fields };
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    let form = ListForm::of(accept.unwrap_or_default());
    match (resource, watches) {
        (Resource::Drops, true) => {
            let lines = follow::drops(server, question);
            let lines = futures::stream::unfold(lines, async |mut lines| {
                let line = lines.recv().await?;
                Some((Ok(Frame::data(line)), lines))
            });
            Ok(response(StatusCode::OK, "application/json", StreamBody::new(lines).boxed_unsync()))
        }
        (Resource::Flows | Resource::Explanations, true) => Err(Refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "there is no watch of it".to_owned(),
        )),
        (Resource::Drops, false) => server.drops(&question).await.map(|list| list.answer(form)),
        (Resource::Flows, false) => server.flows(&question).await.map(|list| list.answer(form)),
        (Resource::Explanations, false) => {
            server.explain(&question).await.map(|found| document(StatusCode::OK, &found))
        }
    }
}

/// Records of a kind, with their nodes.
struct List {
    kind: &'static str,
    items: Vec<Value>,
    unanswered: Vec<Unanswered>,
    table: Table,
}

impl List {
    fn answer(self, form: ListForm) -> Response<Body> {
        let Self { kind, items, unanswered, table } = self;
        if form == ListForm::Table {
            return document(StatusCode::OK, &table.to_json());
        }
        let list = json!({
            "kind": format!("{kind}List"), "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {},
            "items": items, "unanswered": unanswered,
        });
        document(StatusCode::OK, &list)
    }
}

impl Server {
    pub(super) fn new(access: Access, links: Links) -> Self {
        let rights = Rights::new(access.clone());
        let feed = follow::Feed::spawn(links.clone());
        Self { access, links, feed, rights, nodes: Mutex::default() }
    }

    /// The namespaces whose names the user may see in an answer with these drops.
    pub(super) async fn seen(&self, question: &Question, drops: &[DropRecord]) -> Seen {
        self.sees(question, drops.iter().flat_map(namespaces_of).cloned()).await
    }

    /// Whether the user may still watch. Rights are taken away while a watch goes on.
    pub(super) async fn may_watch(&self, question: &Question) -> bool {
        let Question { user, resource, namespace, .. } = question;
        let deed = Deed { verb: "watch", resource: resource.name(), namespace: namespace.clone() };
        self.rights.may(user, &deed).await.unwrap_or(false)
    }

    pub(super) async fn sees(
        &self,
        question: &Question,
        named: impl Iterator<Item = Arc<str>>,
    ) -> Seen {
        let asked = question.namespace.clone();
        let Some(own) = &asked else { return Seen { asked, others: BTreeSet::new() } };
        let named: BTreeSet<_> = named.filter(|namespace| **namespace != **own).collect();
        let mut others = BTreeSet::new();
        for namespace in named {
            let deed = Deed {
                verb: "list",
                resource: question.resource.name(),
                namespace: Some(namespace.to_string()),
            };
            // Without an answer it is not shown.
            if self.rights.may(&question.user, &deed).await.unwrap_or(false) {
                others.insert(namespace);
            }
        }
        Seen { asked, others }
    }

    /// The nodes without a connection, with the reason.
    pub(super) async fn unconnected(&self) -> Vec<(String, String)> {
        let connected = self.links.nodes();
        let all = self.all_nodes().await;
        let missing = all.difference(&connected);
        missing.map(|node| (node.clone(), Silence::NotConnected.to_string())).collect()
    }

    /// The Linux nodes of the cluster, as far as the API server says.
    async fn all_nodes(&self) -> BTreeSet<String> {
        {
            let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, nodes)) = &*nodes
                && at.elapsed() < NODES_REPETITION
            {
                return nodes.clone();
            }
        }
        let nodes = Api::<Node>::all(self.access.client());
        let Ok(found) = nodes.list_metadata(&ListParams::default()).await else {
            return BTreeSet::new();
        };
        let is_windows = |labels: &BTreeMap<String, String>| {
            labels.get("kubernetes.io/os").is_some_and(|os| os == "windows")
        };
        let linux = found
            .items
            .into_iter()
            .filter(|node| !node.metadata.labels.as_ref().is_some_and(is_windows));
        let names: BTreeSet<_> = linux.filter_map(|node| node.metadata.name).collect();
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        *nodes = Some((Instant::now(), names.clone()));
        names
    }

    async fn ask_one(
        &self,
        node: String,
        form: Form,
        asked: &str,
    ) -> (String, Result<Vec<Value>, Silence>) {
        let answer = match form {
            Form::Lines => self.links.ask_lines(&node, asked).await,
            Form::Document => self.links.ask(&node, asked).await.map(list),
        };
        (node, answer)
    }

    /// The records that all nodes have kept for so long, the oldest first. Nodes that do not answer have none.
    pub(super) async fn recent_drops(&self, since: Duration) -> Vec<(String, Value)> {
        let asked = format!("/drops?since={}", since.as_secs());
        let (answers, _) = self.ask_all(Form::Lines, &asked).await;
        let each = |(node, values): (String, Vec<Value>)| {
            values.into_iter().map(move |value| (node.clone(), value))
        };
        let mut records: Vec<_> = answers.into_iter().flat_map(each).collect();
        records.sort_by_key(|(_, value)| value.get("unix_ms").and_then(Value::as_u64));
        records
    }

    /// Asks all nodes for lists.
    async fn ask_all(
        &self,
        form: Form,
        asked: &str,
    ) -> (Vec<(String, Vec<Value>)>, Vec<Unanswered>) {
        let nodes = self.links.nodes();
        let questions = nodes.into_iter().map(|node| self.ask_one(node, form, asked));
        let answers = futures::stream::iter(questions).buffer_unordered(MAX_CONCURRENT);
        let answers: Vec<_> = answers.collect().await;
        let mut found = Vec::new();
        let mut unanswered = Vec::new();
        for (node, answer) in answers {
            match answer {
                Ok(values) => found.push((node, values)),
                Err(reason) => unanswered.push(Unanswered { node, reason: reason.to_string() }),
            }
        }
        let unconnected = self.unconnected().await.into_iter();
        unanswered.extend(unconnected.map(|(node, reason)| Unanswered { node, reason }));
        unanswered.sort_by(|a, b| a.node.cmp(&b.node));
        (found, unanswered)
    }

    async fn drops(&self, question: &Question) -> Result<List, Refusal> {
        let asked = match question.fields.get("since") {
            Some(_) => format!("/drops?since={}", question.since.as_secs()),
            None => "/drops".to_owned(),
        };
        let (answers, mut unanswered) = self.ask_all(Form::Lines, &asked).await;
        let records = records::<DropRecord>(answers, &mut unanswered);
        let named = records.iter().flat_map(|(_, record)| namespaces_of(record)).cloned();
        let seen = self.sees(question, named).await;
        let shown = records
            .into_iter()
            .filter_map(|(node, record)| Some((node, seen.drop_record(record)?)));
        let mut shown: Vec<_> = shown.collect();
        shown.sort_by_key(|(_, record)| record.unix_ms);
        let items = shown.iter().enumerate().map(|(index, (node, record))| {
            let name = format!("{node}-{}-{index}", record.unix_ms);
            item("Drop", &name, question.namespace.as_deref(), node, &json!(record))
        });
        let rows = shown.iter().map(|(_, record)| drop_cells(record)).collect();
        let columns = &["Time", "Pod", "Direction", "Peer", "Port", "Reason", "Policy"];
        Ok(List {
            kind: "Drop",
            items: items.collect(),
            unanswered,
            table: Table { columns, rows },
        })
    }

    async fn flows(&self, question: &Question) -> Result<List, Refusal> {
        let (answers, mut unanswered) = match question.fields.get("pod") {
            Some(pod) => {
                let (name, node) = self.pod(question, pod).await?;
                let asked = format!("/flows?pod={name}");
                match self.links.ask(&node, &asked).await {
                    Ok(values) => (vec![(node, list(values))], Vec::new()),
                    Err(reason) => {
                        (Vec::new(), vec![Unanswered { node, reason: reason.to_string() }])
                    }
                }
            }
            None => self.ask_all(Form::Document, "/flows").await,
        };
        let records = records::<FlowRecord>(answers, &mut unanswered);
        let named = records.iter().filter_map(|(_, record)| record.peer.as_ref());
        let named: BTreeSet<_> = named.map(|peer| Arc::clone(&peer.namespace)).collect();
        let seen = self.sees(question, named.into_iter()).await;
        let shown =
            records.into_iter().filter_map(|(node, record)| Some((node, seen.flow(record)?)));
        let shown: Vec<_> = shown.collect();
        let items = shown.iter().enumerate().map(|(index, (node, record))| {
            let name = format!("{}-{index}", record.pod.name);
            item("Flow", &name, Some(&record.pod.namespace), node, &json!(record))
        });
        let rows = shown.iter().map(|(_, record)| flow_cells(record)).collect();
        let columns = &["Pod", "Origin", "Peer", "Port", "State", "Idle", "Rule"];
        Ok(List {
            kind: "Flow",
            items: items.collect(),
            unanswered,
            table: Table { columns, rows },
        })
    }
}

fn list(value: Value) -> Vec<Value> {
    if let Value::Array(values) = value { values } else { vec![value] }
}

/// Reads the records of all nodes. A node whose records are not understood does not answer.
fn records<T: for<'de> Deserialize<'de>>(
    answers: Vec<(String, Vec<Value>)>,
    unanswered: &mut Vec<Unanswered>,
) -> Vec<(String, T)> {
    let mut found = Vec::new();
    for (node, values) in answers {
        let read: Result<Vec<T>, _> = values.into_iter().map(T::deserialize).collect();
        match read {
            Ok(records) => found.extend(records.into_iter().map(|record| (node.clone(), record))),
            Err(error) => unanswered.push(Unanswered {
                node,
                reason: format!("its records are not understood: {error}"),
            }),
        }
    }
    found
}

fn item(kind: &str, name: &str, namespace: Option<&str>, node: &str, record: &Value) -> Value {
    json!({
        "kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": { "name": name, "namespace": namespace }, "node": node, "record": record,
    })
}

fn drop_cells(record: &DropRecord) -> Vec<String> {
    let (remote, port) = match record.direction {
        Direction::Ingress => (record.source, record.destination_port),
        Direction::Egress => (record.destination, record.destination_port),
    };
    let at = i64::try_from(record.unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let policies: Vec<_> = record.policies.iter().map(ToString::to_string).collect();
    vec![
        at.map(|at| at.to_string()).unwrap_or_default(),
        record.pod.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        record.direction.to_string(),
        with_address(record.peer.as_ref(), remote),
        format!("{port}/{}", record.protocol),
        record.reason.clone(),
        record.rule.clone().unwrap_or_else(|| policies.join(", ")),
    ]
}

fn flow_cells(record: &FlowRecord) -> Vec<String> {
    let port = match record.origin {
        Direction::Ingress => record.local_port,
        Direction::Egress => record.remote_port,
    };
    vec![
        record.pod.to_string(),
        record.origin.to_string(),
        with_address(record.peer.as_ref(), record.remote),
        format!("{port}/{}", record.protocol),
        record.state.clone(),
        format!("{}s", record.idle_s),
        record.rule.clone().unwrap_or_default(),
    ]
}

fn with_address(name: Option<&ObjectName>, address: IpAddr) -> String {
    name.map_or_else(|| address.to_string(), |name| format!("{name} ({address})"))
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).boxed_unsync()
}

fn document(code: StatusCode, value: &Value) -> Response<Body> {
    response(code, "application/json", full(value.to_string()))
}

fn response(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
