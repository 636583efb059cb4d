//! Requests for one kind: the pages of a list, and the lines of a watch.
//!
//! In: which kind, and from which version. Out: JSON text, undecoded. Must not: retry.

use std::io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
use std::pin::Pin;
use std::time::Duration;

use futures::io::{AsyncBufRead, AsyncBufReadExt as _};
use k8s_openapi::Resource;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Client;
use kube::api::{ListParams, WatchParams};
use tokio::time::timeout;

use super::access::Error;
use netpol_policy::model::Kind;

/// Time limit for the response to a list request, and for the response headers of a watch. The API server's own limit for a
/// list is the same.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// Maximum length of a line of a watch in bytes. etcd's limit for an object is less than a tenth of it.
const MAX_LINE_LENGTH: usize = 32 << 20;

/// The objects that a request is about.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// Their kind.
    pub(super) kind: Kind,
    /// Only the object with this name.
    pub(super) name: Option<String>,
    /// The path of the objects of a kind that is no part of Kubernetes itself.
    pub(super) path: Option<String>,
}

/// Where objects are, and which of them a request is about.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    /// The path of their collection.
    pub(super) path: String,
    /// The field selector.
    pub(super) fields: Option<String>,
    /// The label selector.
    pub(super) labels: Option<String>,
}

impl Scope {
    fn selection(&self) -> Selection {
        let path = match self.kind {
            Kind::NetworkPolicy => path::<NetworkPolicy>(),
            Kind::ClusterNetworkPolicy => self.path.clone().unwrap_or_default(),
            Kind::Pod => path::<Pod>(),
            Kind::Namespace => path::<Namespace>(),
            Kind::Service => path::<Service>(),
            Kind::Node => path::<Node>(),
        };
        let fields = self.name.as_ref().map(|name| format!("metadata.name={name}"));
        Selection { path, fields, labels: None }
    }
}

fn path<K: Resource>() -> String {
    let root = if K::GROUP.is_empty() { "/api" } else { "/apis" };
    format!("{root}/{}/{}", K::API_VERSION, K::URL_PATH_SEGMENT)
}

/// Requests a page of the newest list. Returns its JSON.
pub(super) async fn list(
    client: &Client,
    scope: &Scope,
    page_size: u32,
    next: Option<&str>,
) -> Result<String, Error> {
    list_at(client, scope.selection(), page_size, next).await
}

/// The same for objects anywhere.
pub(super) async fn list_at(
    client: &Client,
    Selection { path, fields, labels }: Selection,
    page_size: u32,
    next: Option<&str>,
) -> Result<String, Error> {
    let params = ListParams {
        field_selector: fields,
        label_selector: labels,
        limit: Some(page_size),
        continue_token: next.map(str::to_owned),
        ..ListParams::default()
    };
    let request =
        kube::core::Request::new(path).list(&params).map_err(kube::Error::BuildRequest)?;
    let answer = timeout(ANSWER_TIMEOUT, client.request_text(request)).await;
    Ok(answer.map_err(|_elapsed| Error::Timeout { timeout: ANSWER_TIMEOUT })??)
}

/// Begins a watch after `version`; without a version, a streaming list. The server is asked to end it after `lasts`.
pub(super) async fn watch(
    client: &Client,
    scope: &Scope,
    version: Option<&str>,
    lasts: Duration,
) -> Result<Lines, Error> {
    watch_at(client, scope.selection(), version, lasts).await
}

/// The same for objects anywhere.
pub(super) async fn watch_at(
    client: &Client,
    Selection { path, fields, labels }: Selection,
    version: Option<&str>,
    lasts: Duration,
) -> Result<Lines, Error> {
    let params = WatchParams {
        field_selector: fields,
        label_selector: labels,
        timeout: Some(u32::try_from(lasts.as_secs()).unwrap_or(u32::MAX)),
        bookmarks: true,
        send_initial_events: version.is_none(),
    };
    let request = kube::core::Request::new(path)
        .watch(&params, version.unwrap_or_default())
        .map_err(kube::Error::BuildRequest)?;
    let answer = timeout(ANSWER_TIMEOUT, client.request_stream(request)).await;
    let reader = answer.map_err(|_elapsed| Error::Timeout { timeout: ANSWER_TIMEOUT })??;
    Ok(Lines { reader: Box::pin(reader), line: Vec::new() })
}

/// The lines of a watch.
pub(super) struct Lines {
    reader: Pin<Box<dyn AsyncBufRead + Send>>,
    line: Vec<u8>,
}

/// Why no further line of a watch can be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The server closed the stream.
    #[error("the watch ended")]
    Closed,
    /// The connection broke, possibly within a line.
    #[error("the watch broke: {}", root_cause(.0))]
    Broken(#[source] std::io::Error),
    /// The path to the server is dead.
    #[error("the connection of the watch is dead: {}", root_cause(.0))]
    Dead(#[source] std::io::Error),
    /// A line exceeds the maximum length.
    #[error("a line of the watch is longer than {MAX_LINE_LENGTH} bytes")]
    Endless,
    /// A line is not a watch event.
    #[error("a line of the watch is not an event: {0}")]
    Garbled(#[source] serde_json::Error),
}

impl End {
    fn of(error: std::io::Error) -> Self {
        if is_dead(&error) { Self::Dead(error) } else { Self::Broken(error) }
    }
}

/// Whether the kernel ended the connection because the peer acknowledged nothing: see [`Keepalive`](super::Keepalive).
fn is_dead(error: &std::io::Error) -> bool {
    let kind = root_cause(error).downcast_ref().map(std::io::Error::kind);
    matches!(kind, Some(TimedOut | HostUnreachable | NetworkUnreachable))
}

/// The innermost error, which comes from the kernel or the protocol; the layers above only add their names.
fn root_cause(error: &std::io::Error) -> &(dyn std::error::Error + 'static) {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

impl Lines {
    /// Reads the next line that is not empty. Not cancel safe: after cancellation the watch has to be dropped.
    pub(super) async fn next(&mut self) -> Result<&[u8], End> {
        self.line.clear();
        loop {
            let chunk = self.reader.fill_buf().await.map_err(End::of)?;
            if chunk.is_empty() {
                // An incomplete last line is ignored.
                return Err(End::Closed);
            }
            let end = memchr::memchr(b'\n', chunk);
            let part = end.and_then(|end| chunk.get(..end)).unwrap_or(chunk);
            self.line.extend_from_slice(part);
            let n_read = part.len() + usize::from(end.is_some());
            self.reader.consume_unpin(n_read);
            if end.is_some() && !self.line.is_empty() {
                break;
            }
            if self.line.len() > MAX_LINE_LENGTH {
                return Err(End::Endless);
            }
        }
        Ok(&self.line)
    }
}
