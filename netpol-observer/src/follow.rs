//! Drops of all nodes as they happen: one connection to each node, however many users watch.
//!
//! In: connections of agents, also of those that come later. Out: for each user the lines of a watch. Must not: send a record twice, or one
//! that the user may not see; take more of an agent's connections for more users.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::sync::{Notify, broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::api::{Question, Server};
use super::links::{Links, Silence};
use super::records::{DropRecord, NotShownRecord};

/// Events that wait for a slow user.
const LAG: usize = 4096;

/// Lines that wait for the API server.
const QUEUE: usize = 64;

/// Time between two looks for nodes and for users.
const PERIOD: Duration = Duration::from_secs(2);

/// How old a record may be when a node is followed for the first time.
const SINCE: Duration = Duration::from_secs(10);

/// What happens on a node.
#[derive(Clone, Debug)]
enum Event {
    /// A drop, or a number of them, as the agent writes it.
    Record { node: String, value: Arc<Value> },
    /// The node sends nothing, for this reason, or sends again.
    State { node: String, silent: Option<String> },
}

/// The events of all nodes, while anybody wants them.
pub(super) struct Feed {
    events: broadcast::Sender<Event>,
    wanted: Arc<Notify>,
}

impl Feed {
    /// Starts the task, which ends with the runtime.
    pub(super) fn spawn(links: Links) -> Self {
        let (events, _) = broadcast::channel(LAG);
        let wanted = Arc::new(Notify::new());
        let (sender, asked) = (events.clone(), Arc::clone(&wanted));
        tokio::spawn(async move {
            loop {
                asked.notified().await;
                supervise(&links, &sender).await;
            }
        });
        Self { events, wanted }
    }

    fn subscribe(&self) -> broadcast::Receiver<Event> {
        let events = self.events.subscribe();
        self.wanted.notify_one();
        events
    }
}

/// Follows all nodes until nobody wants it any more.
async fn supervise(links: &Links, events: &broadcast::Sender<Event>) {
    let mut followers: JoinSet<(String, u64, Silence)> = JoinSet::new();
    let mut followed = BTreeSet::new();
    // Nodes that send nothing: the time of the latest record, and since when.
    let mut silent: BTreeMap<String, (u64, Instant)> = BTreeMap::new();
    while events.receiver_count() > 0 {
        for node in links.nodes() {
            if !followed.insert(node.clone()) {
                continue;
            }
            let (after_ms, since) = match silent.remove(&node) {
                Some((latest_ms, at)) => {
                    let back = Event::State { node: node.clone(), silent: None };
                    // The user may have gone.
                    drop(events.send(back));
                    (latest_ms, at.elapsed() + PERIOD)
                }
                None => (0, SINCE),
            };
            followers.spawn(one(links.clone(), node, (after_ms, since), events.clone()));
        }
        tokio::select! {
            Some(Ok((node, latest_ms, reason))) = followers.join_next() => {
                followed.remove(&node);
                silent.insert(node.clone(), (latest_ms, Instant::now()));
                drop(events.send(Event::State { node, silent: Some(reason.to_string()) }));
                // One that refuses at once is not asked without a pause.
                sleep(PERIOD).await;
            }
            () = sleep(PERIOD) => {}
        }
    }
}

/// Follows one node until its connection ends: the time of the latest record, and why.
async fn one(
    links: Links,
    node: String,
    (after_ms, since): (u64, Duration),
    events: broadcast::Sender<Event>,
) -> (String, u64, Silence) {
    let asked = format!("/drops?follow&not-shown&since={}", since.as_secs());
    let mut latest_ms = after_ms;
    let mut received = match links.follow(&node, &asked).await {
        Ok(received) => received,
        Err(reason) => return (node, latest_ms, reason),
    };
    loop {
        let value = match received.next().await {
            Ok(Some(value)) => value,
            Ok(None) => return (node, latest_ms, Silence::NotConnected),
            Err(reason) => return (node, latest_ms, reason),
        };
        let at_ms = time_of(&value);
        if at_ms > after_ms {
            latest_ms = latest_ms.max(at_ms);
            drop(events.send(Event::Record { node: node.clone(), value: Arc::new(value) }));
        }
    }
}

fn time_of(value: &Value) -> u64 {
    value.get("unix_ms").and_then(Value::as_u64).unwrap_or_default()
}

/// The lines of a watch of drops, until the receiver is dropped.
pub(super) fn drops(server: Arc<Server>, question: Question) -> mpsc::Receiver<Bytes> {
    let (lines, received) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        tokio::select! {
            _ended = watch(&server, &question, &lines) => {}
            () = lines.closed() => {}
        }
    });
    received
}

/// Sends what a user wants to see. Ends when the user has gone, or is too slow.
async fn watch(
    server: &Server,
    question: &Question,
    lines: &mpsc::Sender<Bytes>,
) -> Result<(), mpsc::error::SendError<Bytes>> {
    // First, so that nothing is missed in between.
    let mut events = server.feed.subscribe();
    for (node, reason) in server.unconnected().await {
        lines.send(state(&node, Some(&reason))).await?;
    }
    // What each node has reported already, by its latest time: a record may come by both routes.
    let mut sent: BTreeMap<String, (u64, Vec<Value>)> = BTreeMap::new();
    for (node, value) in server.recent_drops(question.since).await {
        if let Some(line) = shown(server, question, &node, &value).await {
            lines.send(line).await?;
        }
        let (latest_ms, values) = sent.entry(node).or_default();
        let at_ms = time_of(&value);
        if at_ms > *latest_ms {
            (*latest_ms, *values) = (at_ms, Vec::new());
        }
        values.push(value);
    }
    loop {
        let event = events.recv().await;
        if !server.may_watch(question).await {
            return lines.send(error("the user may not watch any more")).await;
        }
        let line = match event {
            Ok(Event::State { node, silent }) => Some(state(&node, silent.as_deref())),
            Ok(Event::Record { node, value }) => {
                let at_ms = time_of(&value);
                let is_sent = sent.get(&node).is_some_and(|(latest_ms, values)| {
                    at_ms < *latest_ms || at_ms == *latest_ms && values.contains(&value)
                });
                if is_sent { None } else { shown(server, question, &node, &value).await }
            }
            Err(broadcast::error::RecvError::Lagged(n)) => {
                // The client begins again, with what the nodes keep.
                let message =
                    format!("{n} events have not been sent, because the client reads too slowly");
                return lines.send(error(&message)).await;
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        };
        if let Some(line) = line {
            lines.send(line).await?;
        }
    }
}

/// The line of a record, as the user may see it. A record that is not understood is not shown.
async fn shown(server: &Server, question: &Question, node: &str, value: &Value) -> Option<Bytes> {
    if let Ok(number) = NotShownRecord::deserialize(value) {
        let number = server.seen(question, &[]).await.not_shown(number)?;
        return Some(added(&json!({ "kind": "NotShown", "node": node, "record": number })));
    }
    let record = DropRecord::deserialize(value).ok()?;
    let seen = server.seen(question, std::slice::from_ref(&record)).await;
    let record = seen.drop_record(record)?;
    Some(added(&json!({ "kind": "Drop", "node": node, "record": record })))
}

/// Says that a node sends nothing, and why, or that it sends again.
fn state(node: &str, reason: Option<&str>) -> Bytes {
    added(&json!({ "kind": "NodeState", "node": node, "silent": reason }))
}

fn added(object: &Value) -> Bytes {
    line("ADDED", object)
}

fn error(message: &str) -> Bytes {
    line(
        "ERROR",
        &json!({ "kind": "Status", "status": "Failure", "message": message, "code": 410 }),
    )
}

fn line(event: &str, object: &Value) -> Bytes {
    Bytes::from(json!({ "type": event, "object": object }).to_string() + "\n")
}
