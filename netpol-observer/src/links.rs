//! Connections of agents, and questions on them.
//!
//! In: connections whose agent is known. Out: answers. Must not: ask a node on a connection of another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::debug;

/// How long a node has to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Most bytes of an answer, so that a broken node cannot fill the memory.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Most bytes of a line of an answer.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Connections of one node. An agent opens eight at most.
const MAX_OF_NODE: usize = 16;

/// Idle connections of a node that are kept after a burst of questions.
const MAX_IDLE: usize = 2;

type Sender = SendRequest<Empty<Bytes>>;

/// The connections of all agents. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    by_node: Arc<Mutex<BTreeMap<String, Connections>>>,
    /// Changes when a node has one more idle connection, or none any more.
    changes: watch::Sender<u64>,
}

/// The connections of one node.
#[derive(Debug, Default)]
struct Connections {
    idle: Vec<Sender>,
    n_open: usize,
}

/// Why a node does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Silence {
    /// It has no connection.
    #[error("its agent is not connected to the observer")]
    NotConnected,
    /// It does not answer in time.
    #[error("no answer within {} s", LIMIT.as_secs())]
    Late,
    /// It answers with an error.
    #[error("{0}")]
    Refused(String),
    /// The connection fails, or the answer is too long or not JSON.
    #[error("its answer cannot be used: {0}")]
    Broken(String),
}

impl Default for Links {
    fn default() -> Self {
        Self { by_node: Arc::default(), changes: watch::Sender::new(0) }
    }
}

impl Links {
    /// Takes a connection on which a node answers. It counts until it ends.
    ///
    /// # Errors
    /// The node has too many, or the connection fails.
    pub(crate) async fn add<S>(&self, node: &str, stream: S) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let begun = self.with(node, |of_node| {
            let is_free = of_node.n_open < MAX_OF_NODE;
            of_node.n_open += usize::from(is_free);
            is_free
        });
        if !begun {
            return Err(format!("node {node} has {MAX_OF_NODE} connections already"));
        }
        let (sender, connection) = match http1::handshake(TokioIo::new(stream)).await {
            Ok(begun) => begun,
            Err(error) => {
                self.end(node);
                return Err(error.to_string());
            }
        };
        self.give_back(node, sender);
        if let Err(error) = connection.await {
            debug!(node, %error, "connection of an agent ended");
        }
        self.end(node);
        Ok(())
    }

    /// The nodes that are connected.
    pub(crate) fn nodes(&self) -> BTreeSet<String> {
        let by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        by_node.keys().cloned().collect()
    }

    /// Asks a node for a JSON document.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn ask(&self, node: &str, question: &str) -> Result<Value, Silence> {
        let bytes =
            timeout(LIMIT, self.bytes(node, question)).await.unwrap_or(Err(Silence::Late))?;
        serde_json::from_slice(&bytes).map_err(broken)
    }

    /// Asks a node for an answer of one JSON object a line.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn ask_lines(
        &self,
        node: &str,
        question: &str,
    ) -> Result<Vec<Value>, Silence> {
        let bytes =
            timeout(LIMIT, self.bytes(node, question)).await.unwrap_or(Err(Silence::Late))?;
        let lines = serde_json::Deserializer::from_slice(&bytes).into_iter();
        lines.collect::<Result<_, _>>().map_err(broken)
    }

    /// Asks a node for lines that come as things happen.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn follow(&self, node: &str, question: &str) -> Result<Lines, Silence> {
        let (answer, sender) =
            timeout(LIMIT, self.begin(node, question)).await.unwrap_or(Err(Silence::Late))?;
        Ok(Lines { body: answer, buffer: Vec::new(), _sender: sender })
    }

    async fn bytes(&self, node: &str, question: &str) -> Result<Bytes, Silence> {
        let (body, mut sender) = self.begin(node, question).await?;
        let collected = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let bytes = collected.map_err(|error| Silence::Broken(error.to_string()))?.to_bytes();
        if sender.ready().await.is_ok() {
            self.give_back(node, sender);
        }
        Ok(bytes)
    }

    async fn begin(&self, node: &str, question: &str) -> Result<(Incoming, Sender), Silence> {
        let mut sender = self.take(node).await?;
        let request = Request::get(question).header(HOST, "netpol-agent").body(Empty::new());
        let answer = sender.send_request(request.map_err(broken)?).await.map_err(broken)?;
        if answer.status() != StatusCode::OK {
            let body = Limited::new(answer.into_body(), MAX_LINE_BYTES).collect().await;
            let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned());
            return Err(Silence::Refused(text.unwrap_or_default()));
        }
        Ok((answer.into_body(), sender))
    }

    /// An idle connection, or the next one that becomes idle.
    async fn take(&self, node: &str) -> Result<Sender, Silence> {
        let mut changes = self.changes.subscribe();
        loop {
            {
                let mut by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
                let of_node = by_node.get_mut(node).ok_or(Silence::NotConnected)?;
                while let Some(sender) = of_node.idle.pop() {
                    if !sender.is_closed() {
                        return Ok(sender);
                    }
                }
            }
            // The agent opens another one when the last idle one has a request.
            if changes.changed().await.is_err() {
                return Err(Silence::NotConnected);
            }
        }
    }

    fn give_back(&self, node: &str, sender: Sender) {
        self.with(node, |of_node| {
            of_node.idle.retain(|idle| !idle.is_closed());
            if of_node.idle.len() < MAX_IDLE {
                of_node.idle.push(sender);
            }
        });
        self.changes.send_modify(|n| *n += 1);
    }

    fn end(&self, node: &str) {
        let mut by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_node) = by_node.get_mut(node) {
            of_node.n_open = of_node.n_open.saturating_sub(1);
            if of_node.n_open == 0 {
                by_node.remove(node);
            }
        }
        drop(by_node);
        self.changes.send_modify(|n| *n += 1);
    }

    fn with<T>(&self, node: &str, change: impl FnOnce(&mut Connections) -> T) -> T {
        let mut by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        change(by_node.entry(node.to_owned()).or_default())
    }
}

fn broken(error: impl std::error::Error) -> Silence {
    Silence::Broken(error.to_string())
}

/// Lines of JSON, as a node sends them. Dropped, the connection ends.
pub(crate) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    _sender: Sender,
}

impl Lines {
    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// The connection breaks, or a line is too long or not JSON.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, Silence> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(broken);
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(Silence::Broken(format!("a line exceeds {MAX_LINE_BYTES} bytes")));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame.map_err(broken)?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Full;
    use hyper::Response;
    use hyper::server::conn::http1 as server;
    use hyper::service::service_fn;

    use super::*;

    /// A node that answers with this text on each of its connections.
    fn connect(links: &Links, node: &'static str, answer: &'static str) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let links = links.clone();
        tokio::spawn(async move { links.add(node, ours).await });
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| async move {
                let mut response = Response::new(Full::new(Bytes::from(answer)));
                if request.uri().path() == "/refused" {
                    *response.status_mut() = StatusCode::BAD_REQUEST;
                }
                Ok::<_, Infallible>(response)
            });
            drop(server::Builder::new().serve_connection(TokioIo::new(theirs), service).await);
        });
    }

    async fn connected(links: &Links, n: usize) {
        let mut changes = links.changes.subscribe();
        while links.nodes().len() != n {
            changes.changed().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_node_answers_on_its_own_connection_again_and_again() {
        let links = Links::default();
        connect(&links, "a", "[1]");
        connect(&links, "b", "{}\n{\"x\":2}\n");
        connected(&links, 2).await;
        for _ in 0..20 {
            assert_eq!(links.ask("a", "/flows").await, Ok(serde_json::json!([1])));
            assert_eq!(links.ask_lines("b", "/drops").await.map(|answer| answer.len()), Ok(2));
        }
        assert_eq!(links.ask("c", "/flows").await, Err(Silence::NotConnected));
        assert_eq!(links.ask("a", "/refused").await, Err(Silence::Refused("[1]".to_owned())));
        assert!(matches!(links.ask("b", "/flows").await, Err(Silence::Broken(_))));
    }

    #[tokio::test]
    async fn lines_are_returned_one_after_the_other() {
        let links = Links::default();
        connect(&links, "b", "{}\n{\"x\":2}\n");
        connected(&links, 1).await;
        let mut answer = links.follow("b", "/drops?follow").await.unwrap();
        assert_eq!(answer.next().await, Ok(Some(serde_json::json!({}))));
        assert_eq!(answer.next().await, Ok(Some(serde_json::json!({ "x": 2 }))));
        assert_eq!(answer.next().await, Ok(None));
        drop(answer);
        connected(&links, 0).await;
    }
}
