//! Followed drops for a program of this process, folded as on a terminal.
//!
//! In: access to the agents. Out: events. Must not: write.

use serde::{Deserialize as _, Serialize};
use tokio::sync::mpsc;

use super::super::cluster::{AccessArgs, Cluster, Silent};
use super::super::follow::{self, Followed};
use super::fold::{Fold, Line};
use super::record::{NotShown, Record};
use super::{SINCE, every_second, time_of_day};

/// Events that wait for their reader.
const QUEUE: usize = 256;

/// What is shown of drops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum DropEvent {
    /// Drops with the same pod, peer, port and reason.
    Drop(Box<DropLine>),
    /// Drops that have no record, because of the rate limit.
    NotShown {
        /// Pod, direction and reason in words.
        what: String,
        /// Their number.
        n: u64,
    },
    /// Drops that have records, and are not shown.
    Left {
        /// Their number.
        n: u64,
    },
    /// A node sends nothing.
    Silent {
        /// The node.
        node: String,
        /// Why.
        reason: String,
    },
    /// A node sends drops again.
    Back {
        /// The node.
        node: String,
    },
}

/// Drops with the same pod, peer, port and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct DropLine {
    /// The time of day of the latest, UTC.
    time: String,
    node: String,
    /// `None` for a pod that is gone.
    pod: Option<String>,
    direction: String,
    /// The peer's name.
    peer: Option<String>,
    /// The peer's address.
    remote: String,
    protocol: String,
    /// 0 for a protocol without ports.
    port: u16,
    reason: String,
    /// The rule that denies it, or the policies that isolate the pod.
    why: String,
    /// Whether audit mode let the packets pass.
    is_audited: bool,
    n: u64,
}

/// Follows the drops of all nodes. Ends when the receiver is dropped.
///
/// # Errors
/// The agents cannot be found.
pub(crate) async fn events(access: &AccessArgs) -> anyhow::Result<mpsc::Receiver<DropEvent>> {
    let cluster = Cluster::open(access).await?;
    let found = cluster.agents().await?;
    let (events, received) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        for Silent { node, reason } in found.silent.clone() {
            drop(events.send(DropEvent::Silent { node, reason }).await);
        }
        let mut followed = follow::drops(cluster, found, SINCE);
        let (mut fold, mut ticks) = (Fold::default(), every_second());
        while !events.is_closed() {
            let lines = tokio::select! {
                () = events.closed() => return,
                next = followed.recv() => match next {
                    None => return,
                    Some(next) => of(next, &mut fold),
                },
                _ = ticks.tick() => fold.tick().into_iter().map(in_words).collect(),
            };
            for line in lines {
                drop(events.send(line).await);
            }
        }
    });
    Ok(received)
}

/// What is shown at once of something that a node sends.
fn of(followed: Followed, fold: &mut Fold) -> Vec<DropEvent> {
    match followed {
        Followed::Silent(Silent { node, reason }) => vec![DropEvent::Silent { node, reason }],
        Followed::Back(node) => vec![DropEvent::Back { node }],
        Followed::Record(node, value) => {
            if let Ok(not_shown) = NotShown::deserialize(&value) {
                fold.add_not_shown(&node, &not_shown);
                return Vec::new();
            }
            // A record of another version that lacks a field cannot be shown.
            let record = Record::deserialize(&value).ok();
            let line = record.and_then(|record| fold.add(&node, record));
            line.map(in_words).into_iter().collect()
        }
    }
}

fn in_words(line: Line) -> DropEvent {
    match line {
        Line::NotShown { what, n } => DropEvent::NotShown { what, n },
        Line::Left { n } => DropEvent::Left { n },
        Line::Drop { key, latest, n } => DropEvent::Drop(Box::new(DropLine {
            time: time_of_day(latest.unix_ms),
            pod: key.pod.as_ref().map(ToString::to_string),
            peer: key.peer.as_ref().map(ToString::to_string),
            remote: key.remote.to_string(),
            is_audited: key.reason == AUDITED,
            node: key.node,
            direction: key.direction,
            protocol: key.protocol,
            port: key.port,
            reason: key.reason,
            why: key.why,
            n,
        })),
    }
}

/// The reason of packets that audit mode let pass.
const AUDITED: &str = "audited";
