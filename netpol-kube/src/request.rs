//! The requests for one kind: pages of a list, and watches line by line.
//!
//! Answers are taken apart here and not by kube's own watcher, because that tells neither bookmarks nor
//! which object of a list could not be read, and asks for a version again that was refused as gone.

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

use super::access::{Error, chain};
use netpol_policy::model::Kind;

/// How long the server may take to answer a request, or to begin with the answer to a watch. Its own
/// bound for a list is as long.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// A line of a watch that is longer than this many bytes is no object: etcd holds a tenth of it.
const MAX_LINE_LENGTH: usize = 32 << 20;

/// What is asked about.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// The kind of all objects.
    pub(super) kind: Kind,
    /// Only the object of this name.
    pub(super) name: Option<String>,
}

impl Scope {
    fn request(&self) -> kube::core::Request {
        let path = match self.kind {
            Kind::NetworkPolicy => path::<NetworkPolicy>(),
            Kind::Pod => path::<Pod>(),
            Kind::Namespace => path::<Namespace>(),
            Kind::Service => path::<Service>(),
            Kind::Node => path::<Node>(),
        };
        kube::core::Request::new(path)
    }

    fn field_selector(&self) -> Option<String> {
        self.name.as_ref().map(|name| format!("metadata.name={name}"))
    }
}

fn path<K: Resource>() -> String {
    let root = if K::GROUP.is_empty() { "/api" } else { "/apis" };
    format!("{root}/{}/{}", K::API_VERSION, K::URL_PATH_SEGMENT)
}

/// Asks for a page of the newest list and returns its JSON.
pub(super) async fn list(
    client: &Client,
    scope: &Scope,
    page_size: u32,
    next: Option<&str>,
) -> Result<String, Error> {
    let params = ListParams {
        field_selector: scope.field_selector(),
        limit: Some(page_size),
        continue_token: next.map(str::to_owned),
        ..ListParams::default()
    };
    let request = scope.request().list(&params).map_err(kube::Error::BuildRequest)?;
    let answer = timeout(ANSWER_TIMEOUT, client.request_text(request)).await;
    Ok(answer.map_err(|_elapsed| Error::Timeout { timeout: ANSWER_TIMEOUT })??)
}

/// Begins a watch after `version`; without one, with all objects that exist and a bookmark that says so.
/// The server is asked to end it after `lasts`.
pub(super) async fn watch(
    client: &Client,
    scope: &Scope,
    version: Option<&str>,
    lasts: Duration,
) -> Result<Lines, Error> {
    let params = WatchParams {
        field_selector: scope.field_selector(),
        timeout: Some(u32::try_from(lasts.as_secs()).unwrap_or(u32::MAX)),
        bookmarks: true,
        send_initial_events: version.is_none(),
        ..WatchParams::default()
    };
    let request = scope
        .request()
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

/// How the lines of a watch ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// As the server wanted it.
    #[error("the watch ended")]
    Closed,
    /// The connection broke, perhaps within a line.
    #[error("the watch broke: {}", chain(.0))]
    Broken(#[source] std::io::Error),
    /// Nothing reaches the server any more.
    #[error("the connection of the watch is dead: {}", chain(.0))]
    Dead(#[source] std::io::Error),
    /// A line is too long to be one.
    #[error("a line of the watch is longer than {MAX_LINE_LENGTH} bytes")]
    Endless,
    /// A line is not an event.
    #[error("a line of the watch is not an event: {0}")]
    Garbled(#[source] serde_json::Error),
}

impl End {
    fn of(error: std::io::Error) -> Self {
        if is_dead(&error) { Self::Dead(error) } else { Self::Broken(error) }
    }
}

/// Whether the kernel gave up the connection because nothing was acknowledged for too long: see
/// [`Keepalive`](super::Keepalive).
fn is_dead(error: &std::io::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        let kind = error.downcast_ref().map(std::io::Error::kind);
        if matches!(kind, Some(TimedOut | HostUnreachable | NetworkUnreachable)) {
            return true;
        }
        next = error.source();
    }
    false
}

impl Lines {
    /// The next line, not empty. Safe to abandon only together with the watch.
    pub(super) async fn next(&mut self) -> Result<&[u8], End> {
        self.line.clear();
        loop {
            let chunk = self.reader.fill_buf().await.map_err(End::of)?;
            if chunk.is_empty() {
                // What is left of a last line without its end is not worth looking at.
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
