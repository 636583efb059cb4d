//! Requests and answers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Collected, Full, StreamBody};
use hyper::body::Bytes;
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};

use super::aggregate::Reading;
use super::contents::{Filter, Gone, LabelTerm};
use super::faults::{GoneAs, StreamingLists, status_json};
use super::resource::{
    RESOURCES, ResourcePath, core_discovery, discovery, is_discovery, parse_path, stored_path,
};
use super::watch::{Start, Watch, Wish, error_line};
use super::{Asked, Shared, State, aggregate, exec};

/// The minor version of Kubernetes, unless a test sets another one.
const MINOR_VERSION: u32 = 36;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An error answer.
pub(super) struct Refusal(pub(super) StatusCode, pub(super) &'static str, pub(super) String);

/// Answers one request.
pub(super) async fn serve(
    shared: Arc<Shared>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let query = parse_query(request.uri().query().unwrap_or_default());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let asked = Asked { method: method.to_string(), path: path.clone(), query: query.clone() };
    shared.change(|state| state.remember(asked));
    shared.released().await;
    if shared.with(|state| state.faults.is_garbled) {
        let page = "<!DOCTYPE html><title>Welcome</title><p>Nothing to see here.\n";
        return Ok(answer(StatusCode::OK, Bytes::from_static(page.as_bytes())));
    }

    let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let named = request.headers().get("impersonate-user").and_then(|value| value.to_str().ok());
    let (user, aggregate) = shared.with(|state| {
        let aggregate = state.aggregate.clone();
        (aggregate.user(token, named), aggregate)
    });
    let watches = query.get("watch").is_some_and(|watch| watch == "true" || watch == "1");
    let reading = if watches { Reading::Watch } else { Reading::Once };
    let admitted = shared.with(|state| admit(state, &path, token));
    let admitted = admitted.and_then(|()| aggregate.authorize(&user, &method, &path, reading));
    if admitted.is_ok() && aggregate.is_for(&path) {
        let passed_on = aggregate::pass_on(&shared, &user, request).await;
        return Ok(passed_on.unwrap_or_else(refuse));
    }
    if admitted.is_ok()
        && let Some(pod) = exec::pod_of(&path)
    {
        let served = exec::serve(&shared, &mut request, &pod);
        return Ok(served.unwrap_or_else(refuse));
    }
    let request_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let request_type = request_type.map(str::to_owned);
    let body = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
    let patch_type = request_type.as_deref();
    let served = admitted.and_then(|()| {
        if path == "/version" {
            return Ok(version(&shared));
        }
        if let Some(document) = core_discovery(&path) {
            return Ok(answer(StatusCode::OK, document.to_string().into()));
        }
        if method == Method::POST
            && let Some(review) = aggregate.review(&user, &path, &body)
        {
            return Ok(review);
        }
        let not_found =
            || Refusal(StatusCode::NOT_FOUND, "NotFound", format!("no resource {path}"));
        let served = shared.with(|state| state.faults.served.clone());
        if is_discovery(&path) {
            let document = discovery(&path, &served).ok_or_else(not_found)?;
            return Ok(answer(StatusCode::OK, document.to_string().into()));
        }
        let stored_path = stored_path(&path, &served).ok_or_else(not_found)?;
        let place = parse_path(&stored_path).ok_or_else(not_found)?;
        if shared.with(|state| state.faults.forbidden == Some(place.resource)) {
            return Err(Refusal(
                StatusCode::FORBIDDEN,
                "Forbidden",
                format!("{path} is forbidden"),
            ));
        }
        match method {
            Method::GET => read(&shared, place, &query),
            Method::POST => create(&shared, &place, &body),
            Method::PUT => replace(&shared, place, &body),
            Method::PATCH if patch_type == Some("application/apply-patch+yaml") => {
                apply(&shared, place, &query, &body)
            }
            Method::PATCH => patch(&shared, place, patch_type, &body),
            other => Err(Refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                format!("no method {other}"),
            )),
        }
    });
    Ok(served.unwrap_or_else(refuse))
}

fn refuse(Refusal(code, reason, message): Refusal) -> Response<Body> {
    answer(code, status_json(code, reason, &message).to_string().into())
}

/// Applies the faults that concern every request.
fn admit(state: &mut State, path: &str, token: Option<&str>) -> Result<(), Refusal> {
    let is_discovery = is_discovery(path);
    if let Some(status) = state.faults.discovery.filter(|_| is_discovery) {
        return Err(Refusal(status, "ServiceUnavailable", "failing on demand".to_owned()));
    }
    if let Some((status, n_requests)) = &mut state.faults.failing
        && *n_requests > 0
        && !is_discovery
    {
        *n_requests -= 1;
        return Err(Refusal(*status, "InternalError", "failing on demand".to_owned()));
    }
    match &state.faults.token {
        Some(required) if token != Some(&format!("Bearer {required}")) => {
            Err(Refusal(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized".to_owned()))
        }
        _ => Ok(()),
    }
}

fn read(
    shared: &Arc<Shared>,
    place: ResourcePath,
    query: &BTreeMap<String, String>,
) -> Result<Response<Body>, Refusal> {
    let ResourcePath { resource, namespace, name } = place;
    if let Some(name) = name {
        let key = (namespace.unwrap_or_default(), name);
        let object = shared.with(|state| state.contents.get(resource, &key));
        return object.map(|json| answer(StatusCode::OK, json)).ok_or_else(|| {
            Refusal(StatusCode::NOT_FOUND, "NotFound", format!("{} not found", key.1))
        });
    }
    let labels = query.get("labelSelector").map(String::as_str).unwrap_or_default();
    let filter = Filter { namespace, name: selected_name(query)?, labels: terms_of(labels)? };
    if query.get("watch").is_some_and(|watch| watch == "true" || watch == "1") {
        shared.with(|state| watch(shared, state, resource, filter, query))
    } else {
        shared.with(|state| list(state, resource, &filter, query))
    }
}

/// The name in a `metadata.name` field selector; others are not supported.
fn selected_name(query: &BTreeMap<String, String>) -> Result<Option<String>, Refusal> {
    let Some(selector) = query.get("fieldSelector") else { return Ok(None) };
    match selector.split_once('=') {
        Some(("metadata.name", name)) => Ok(Some(name.trim_start_matches('=').to_owned())),
        _ => Err(bad_request(format!("field selector {selector} is not supported"))),
    }
}

/// The terms of a label selector; sets and existence are not supported.
fn terms_of(selector: &str) -> Result<Vec<LabelTerm>, Refusal> {
    let terms = selector.split(',').filter(|term| !term.is_empty()).map(|term| {
        if let Some((key, value)) = term.split_once("!=") {
            return Some(LabelTerm::NotEqual(key.to_owned(), value.to_owned()));
        }
        let (key, value) = term.split_once('=')?;
        Some(LabelTerm::Equal(key.to_owned(), value.trim_start_matches('=').to_owned()))
    });
    let terms: Option<_> = terms.collect();
    terms.ok_or_else(|| bad_request(format!("label selector {selector} is not supported")))
}

fn list(
    state: &mut State,
    resource: usize,
    filter: &Filter,
    query: &BTreeMap<String, String>,
) -> Result<Response<Body>, Refusal> {
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let page = match query.get("continue").filter(|token| !token.is_empty()) {
        None => state.contents.list(resource, filter, limit),
        Some(_) if state.faults.lost_pages > 0 => {
            state.faults.lost_pages -= 1;
            return Err(gone());
        }
        Some(token) => state.contents.list_on(token, limit).map_err(|Gone| gone())?,
    };
    let version = page.version.to_string();
    let metadata = match page.next {
        None => json!({ "resourceVersion": version }),
        Some((token, n_remaining)) => json!({
            "resourceVersion": version,
            "continue": token,
            "remainingItemCount": n_remaining,
        }),
    };
    let (kind, api_version) = RESOURCES
        .get(resource)
        .map_or(("", String::new()), |resource| (resource.kind, resource.api_version()));
    let head = format!(
        r#"{{"kind":"{kind}List","apiVersion":"{api_version}","metadata":{metadata},"items":["#
    );
    let mut body = head.into_bytes();
    for (place, item) in page.items.iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        body.extend_from_slice(item);
    }
    body.extend_from_slice(b"]}\n");
    Ok(answer(StatusCode::OK, body.into()))
}

fn watch(
    shared: &Arc<Shared>,
    state: &State,
    resource: usize,
    filter: Filter,
    query: &BTreeMap<String, String>,
) -> Result<Response<Body>, Refusal> {
    let is_set = |name: &str| query.get(name).is_some_and(|value| value == "true");
    let text = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let wants_initial = is_set("sendInitialEvents");
    let (start, wants_initial) = match state.faults.streaming_lists {
        StreamingLists::Served => (Start::EverythingThenBookmark, wants_initial),
        StreamingLists::Refused if wants_initial => {
            let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the \
                           WatchList feature gate is enabled";
            let code = StatusCode::UNPROCESSABLE_ENTITY;
            return Err(Refusal(code, "Invalid", message.to_owned()));
        }
        StreamingLists::RefusedByEvent if wants_initial => {
            // As kube-apiserver 1.36 says it with etcd 3.4.23.
            let message = "etcdserver: required storage feature RequestWatchProgress is disabled";
            let line = error_line(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message);
            return Ok(stream(Watch::refused(Arc::clone(shared), state, line)));
        }
        StreamingLists::Ignored | StreamingLists::Refused | StreamingLists::RefusedByEvent => {
            (Start::Everything, false)
        }
    };
    if wants_initial && text("resourceVersionMatch") != "NotOlderThan" {
        return Err(bad_request(
            "sendInitialEvents needs resourceVersionMatch=NotOlderThan".to_owned(),
        ));
    }
    let start = match text("resourceVersion") {
        "" | "0" if wants_initial => start,
        "" | "0" => Start::Everything,
        version => Start::After(
            version
                .parse()
                .map_err(|error| bad_request(format!("resourceVersion {version}: {error}")))?,
        ),
    };
    let timeout = query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok());
    let wish = Wish {
        resource,
        filter,
        start,
        wants_bookmarks: is_set("allowWatchBookmarks"),
        timeout: timeout.map(Duration::from_secs),
    };
    let watch = match (Watch::new(Arc::clone(shared), state, wish), state.faults.gone_as) {
        (Ok(watch), _) => watch,
        (Err(Gone), GoneAs::Event) => Watch::gone(Arc::clone(shared), state),
        (Err(Gone), GoneAs::Status) => return Err(gone()),
    };
    Ok(stream(watch))
}

/// The answer that a watch is.
fn stream(watch: Watch) -> Response<Body> {
    let lines = futures::stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((line.map(Frame::data), watch))
    });
    respond(StatusCode::OK, StreamBody::new(lines.boxed()).boxed_unsync())
}

fn create(
    shared: &Arc<Shared>,
    place: &ResourcePath,
    body: &Bytes,
) -> Result<Response<Body>, Refusal> {
    let mut object: Value =
        serde_json::from_slice(body).map_err(|error| bad_request(format!("body: {error}")))?;
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let Some(metadata) = metadata else { return Err(bad_request("no metadata".to_owned())) };
    if let Some(namespace) = &place.namespace {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let key = (place.namespace.clone().unwrap_or_default(), name);
    shared.change(|state| {
        if state.contents.get(place.resource, &key).is_some() {
            let message = format!("{} already exists", key.1);
            return Err(Refusal(StatusCode::CONFLICT, "AlreadyExists", message));
        }
        state.contents.put(place.resource, object);
        let created = state.contents.get(place.resource, &key);
        created
            .map(|json| answer(StatusCode::CREATED, json))
            .ok_or_else(|| bad_request("metadata.name is missing".to_owned()))
    })
}

/// Replaces an object, if it still has the version that the request names.
fn replace(
    shared: &Arc<Shared>,
    place: ResourcePath,
    body: &Bytes,
) -> Result<Response<Body>, Refusal> {
    let object: Value =
        serde_json::from_slice(body).map_err(|error| bad_request(format!("body: {error}")))?;
    let ResourcePath { resource, namespace, name } = place;
    let key = (namespace.unwrap_or_default(), name.unwrap_or_default());
    shared.change(|state| {
        let found = state.contents.get(resource, &key).ok_or_else(|| {
            Refusal(StatusCode::NOT_FOUND, "NotFound", format!("{} not found", key.1))
        })?;
        let found: Value =
            serde_json::from_slice(&found).map_err(|error| bad_request(error.to_string()))?;
        let version = |of: &Value| of.pointer("/metadata/resourceVersion").cloned();
        if version(&object).is_some_and(|version_read| Some(version_read) != version(&found)) {
            let message = format!("{} has been modified", key.1);
            return Err(Refusal(StatusCode::CONFLICT, "Conflict", message));
        }
        state.contents.put(resource, object);
        let replaced = state.contents.get(resource, &key);
        replaced
            .map(|json| answer(StatusCode::OK, json))
            .ok_or_else(|| bad_request("metadata.name is missing".to_owned()))
    })
}

/// Changes or creates an object by server-side apply.
fn apply(
    shared: &Arc<Shared>,
    place: ResourcePath,
    query: &BTreeMap<String, String>,
    body: &Bytes,
) -> Result<Response<Body>, Refusal> {
    let manager = query.get("fieldManager").filter(|manager| !manager.is_empty());
    let manager = manager.ok_or_else(|| bad_request("fieldManager is required".to_owned()))?;
    let config: Value =
        serde_json::from_slice(body).map_err(|error| bad_request(format!("body: {error}")))?;
    let ResourcePath { resource, namespace, name } = place;
    let key = (namespace.unwrap_or_default(), name.unwrap_or_default());
    shared.change(|state| {
        let before = state.contents.get(resource, &key);
        let before = before.and_then(|json| serde_json::from_slice::<Value>(&json).ok());
        let after = state.applied.apply(resource, &key, manager, before.as_ref(), config);
        // A request that changes nothing makes no version.
        if before.as_ref() != Some(&after) {
            state.contents.put(resource, after);
        }
        let code = if before.is_some() { StatusCode::OK } else { StatusCode::CREATED };
        let applied = state.contents.get(resource, &key);
        applied
            .map(|json| answer(code, json))
            .ok_or_else(|| bad_request("metadata.name is missing".to_owned()))
    })
}

/// Changes an object by a JSON patch or a merge patch.
fn patch(
    shared: &Arc<Shared>,
    place: ResourcePath,
    patch_type: Option<&str>,
    body: &Bytes,
) -> Result<Response<Body>, Refusal> {
    let invalid = |error: String| Refusal(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", error);
    let ResourcePath { resource, namespace, name } = place;
    let key = (namespace.unwrap_or_default(), name.unwrap_or_default());
    shared.change(|state| {
        let found = state.contents.get(resource, &key).ok_or_else(|| {
            Refusal(StatusCode::NOT_FOUND, "NotFound", format!("{} not found", key.1))
        })?;
        let mut object: Value =
            serde_json::from_slice(&found).map_err(|error| invalid(error.to_string()))?;
        match patch_type {
            Some("application/json-patch+json") => {
                let patch: json_patch::Patch = serde_json::from_slice(body)
                    .map_err(|error| bad_request(format!("body: {error}")))?;
                json_patch::patch(&mut object, &patch)
                    .map_err(|error| invalid(error.to_string()))?;
            }
            Some("application/merge-patch+json") => {
                let patch: Value = serde_json::from_slice(body)
                    .map_err(|error| bad_request(format!("body: {error}")))?;
                json_patch::merge(&mut object, &patch);
            }
            other => return Err(bad_request(format!("no patch of type {other:?}"))),
        }
        state.contents.put(resource, object);
        let changed = state.contents.get(resource, &key);
        changed
            .map(|json| answer(StatusCode::OK, json))
            .ok_or_else(|| invalid("metadata.name is missing".to_owned()))
    })
}

/// The version, of which only the minor one matters to clients.
fn version(shared: &Arc<Shared>) -> Response<Body> {
    let minor = shared.with(|state| state.faults.minor_version.unwrap_or(MINOR_VERSION));
    let info = json!({
        "major": "1", "minor": minor.to_string(), "gitVersion": format!("v1.{minor}.0"), "gitCommit": "",
        "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.25",
        "compiler": "gc", "platform": "linux/amd64",
    });
    answer(StatusCode::OK, info.to_string().into())
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| percent_decode(&text.replace('+', " "));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

pub(super) fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%').then(|| tail.split_at_checked(2)).flatten();
        let escaped = escaped.and_then(|(digits, tail)| {
            let digits = std::str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 16).ok()?, tail))
        });
        let (byte, tail) = escaped.unwrap_or((first, tail));
        bytes.push(byte);
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn bad_request(message: String) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, "BadRequest", message)
}

fn gone() -> Refusal {
    Refusal(StatusCode::GONE, "Expired", "the provided version is too old".to_owned())
}

fn answer(code: StatusCode, json: Bytes) -> Response<Body> {
    respond(code, Full::new(json).map_err(|never| match never {}).boxed_unsync())
}

pub(super) fn respond(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = parse_query("fieldSelector=metadata.name%3Da+b&limit=2&continue=%zz");
        assert_eq!(query["fieldSelector"], "metadata.name=a b");
        assert_eq!(query["limit"], "2");
        assert_eq!(query["continue"], "%zz");
    }
}
