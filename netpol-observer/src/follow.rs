//! Drops of all nodes as they happen, for one user.
//!
//! In: connections of agents, also of those that come later. Out: lines of a watch. Must not: send a record twice, or one that the user
//! may not see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::api::{Question, Server};
use super::links::Silence;
use super::records::{DropRecord, NotShownRecord};

/// Lines that wait for the user.
const QUEUE: usize = 1024;

/// Time between two looks for nodes.
const PERIOD: Duration = Duration::from_secs(2);

/// A node without an agent is named again after this time.
const REMINDER: Duration = Duration::from_mins(1);

/// The lines of a watch of drops, until the receiver is dropped.
pub(super) fn drops(server: Arc<Server>, question: Question) -> mpsc::Receiver<Bytes> {
    let (lines, received) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let question = Arc::new(question);
        tokio::select! {
            () = supervise(&server, &question, &lines) => {}
            () = lines.closed() => {}
        }
    });
    received
}

async fn supervise(server: &Arc<Server>, question: &Arc<Question>, lines: &mpsc::Sender<Bytes>) {
    let (end, mut ends) = mpsc::channel::<(String, u64, Silence)>(64);
    let mut followed = BTreeSet::new();
    // Nodes that send nothing: the time of the latest record, and since when.
    let mut silent: BTreeMap<String, (u64, Instant)> = BTreeMap::new();
    let mut named: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        for node in server.links.nodes() {
            if !followed.insert(node.clone()) {
                continue;
            }
            let (after_ms, since) = match silent.remove(&node) {
                Some((latest_ms, at)) => (latest_ms, at.elapsed() + PERIOD),
                None => (0, question.since),
            };
            if named.remove(&node).is_some() {
                drop(lines.send(state(&node, None)).await);
            }
            let (server, question) = (Arc::clone(server), Arc::clone(question));
            let (lines, end) = (lines.clone(), end.clone());
            tokio::spawn(async move {
                let follow = one(&server, &question, &node, (after_ms, since), &lines);
                let (latest_ms, reason) = tokio::select! {
                    ended = follow => ended,
                    () = lines.closed() => return,
                };
                // The supervisor may have ended.
                drop(end.send((node, latest_ms, reason)).await);
            });
        }
        for (node, reason) in server.unconnected().await {
            let is_news = named.get(&node).is_none_or(|at| at.elapsed() > REMINDER);
            if is_news && !followed.contains(&node) {
                named.insert(node.clone(), Instant::now());
                drop(lines.send(state(&node, Some(&reason))).await);
            }
        }
        tokio::select! {
            Some((node, latest_ms, reason)) = ends.recv() => {
                followed.remove(&node);
                silent.insert(node.clone(), (latest_ms, Instant::now()));
                if named.insert(node.clone(), Instant::now()).is_none() {
                    drop(lines.send(state(&node, Some(&reason.to_string()))).await);
                }
                // One that refuses at once is not asked without a pause.
                sleep(PERIOD).await;
            }
            () = sleep(PERIOD) => {}
        }
    }
}

/// Follows one node until its connection ends: the time of the latest record, and why.
async fn one(
    server: &Server,
    question: &Question,
    node: &str,
    (after_ms, since): (u64, Duration),
    lines: &mpsc::Sender<Bytes>,
) -> (u64, Silence) {
    let asked = format!("/drops?follow&not-shown&since={}", since.as_secs());
    let mut latest_ms = after_ms;
    let mut received = match server.links.follow(node, &asked).await {
        Ok(received) => received,
        Err(reason) => return (latest_ms, reason),
    };
    loop {
        let value = match received.next().await {
            Ok(Some(value)) => value,
            Ok(None) => return (latest_ms, Silence::NotConnected),
            Err(reason) => return (latest_ms, reason),
        };
        let at_ms = value.get("unix_ms").and_then(Value::as_u64).unwrap_or_default();
        if at_ms <= after_ms {
            continue;
        }
        latest_ms = latest_ms.max(at_ms);
        if let Some(line) = shown(server, question, node, &value).await
            && lines.send(line).await.is_err()
        {
            return (latest_ms, Silence::NotConnected);
        }
    }
}

/// The line of a record, as the user may see it. A record that is not understood is not shown.
async fn shown(server: &Server, question: &Question, node: &str, value: &Value) -> Option<Bytes> {
    if let Ok(number) = NotShownRecord::deserialize(value) {
        let number = server.seen(question, &[]).await.not_shown(number)?;
        return Some(event(&json!({ "kind": "NotShown", "node": node, "record": number })));
    }
    let record = DropRecord::deserialize(value).ok()?;
    let seen = server.seen(question, std::slice::from_ref(&record)).await;
    let record = seen.drop_record(record)?;
    Some(event(&json!({ "kind": "Drop", "node": node, "record": record })))
}

/// Says that a node sends nothing, and why, or that it sends again.
fn state(node: &str, reason: Option<&str>) -> Bytes {
    event(&json!({ "kind": "NodeState", "node": node, "silent": reason }))
}

fn event(object: &Value) -> Bytes {
    Bytes::from(json!({ "type": "ADDED", "object": object }).to_string() + "\n")
}
