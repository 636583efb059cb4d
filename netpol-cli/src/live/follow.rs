//! Follows the drops of all nodes, also of those that join later and of those whose connection breaks.
//!
//! In: the agents. Out: records with their node, and why a node sends none. Must not: send a record twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::cluster::{Agent, Agents, Cluster, Silent};
use super::exec;

/// Records that wait for the terminal.
const QUEUE: usize = 4096;

/// Time between two looks for agents: while a node sends nothing, and otherwise.
const SOON: Duration = Duration::from_secs(2);
const LATER: Duration = Duration::from_secs(30);

/// What a followed node sends.
#[derive(Debug)]
pub(super) enum Followed {
    /// A record.
    Record(String, Value),
    /// It sends no more, and is asked again.
    Silent(Silent),
    /// It sends records again.
    Back(String),
}

/// The end of a connection.
#[derive(Debug)]
struct Ended {
    node: String,
    /// The time of the latest record.
    latest_ms: u64,
    reason: String,
}

/// Follows the drops of these agents: those not older than `since`, and those to come. Ends when the receiver is dropped.
pub(super) fn drops(cluster: Cluster, found: Agents, since: Duration) -> mpsc::Receiver<Followed> {
    let (records, received) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        tokio::select! {
            () = supervise(&cluster, found, since, &records) => {}
            () = records.closed() => {}
        }
    });
    received
}

async fn supervise(
    cluster: &Cluster,
    found: Agents,
    since: Duration,
    records: &mpsc::Sender<Followed>,
) {
    let (end, mut ends) = mpsc::channel(64);
    let mut followed = BTreeSet::new();
    // Nodes that send nothing: the time of the latest record, and since when.
    let mut silent: BTreeMap<String, (u64, Instant)> = BTreeMap::new();
    let mut agents = found.agents;
    loop {
        for agent in agents.drain(..) {
            if !followed.insert(agent.node.clone()) {
                continue;
            }
            let (after_ms, since) = match silent.remove(&agent.node) {
                Some((latest_ms, at)) => {
                    drop(records.send(Followed::Back(agent.node.clone())).await);
                    (latest_ms, at.elapsed() + LATER)
                }
                None => (0, since),
            };
            let (cluster, records, end) = (cluster.clone(), records.clone(), end.clone());
            tokio::spawn(async move {
                // The supervisor may have ended.
                drop(end.send(one(&cluster, agent, since, after_ms, &records).await).await);
            });
        }
        let pause = if silent.is_empty() { LATER } else { SOON };
        tokio::select! {
            Some(Ended { node, latest_ms, reason }) = ends.recv() => {
                followed.remove(&node);
                let is_news = silent.insert(node.clone(), (latest_ms, Instant::now())).is_none();
                if is_news {
                    drop(records.send(Followed::Silent(Silent { node, reason })).await);
                }
            }
            () = sleep(pause) => {
                // While the API server does not answer, the nodes stay silent.
                agents = cluster.agents().await.unwrap_or_default().agents;
            }
        }
    }
}

/// Follows one agent until the connection ends.
async fn one(
    cluster: &Cluster,
    agent: Agent,
    since: Duration,
    after_ms: u64,
    records: &mpsc::Sender<Followed>,
) -> Ended {
    let (lines, mut received) = mpsc::channel(64);
    let seconds = format!("{}s", since.as_secs());
    let args = ["drops", "--follow", "--not-shown", "--attended", "--since", &seconds];
    let mut latest_ms = after_ms;
    let pass_on = async {
        while let Some(value) = received.recv().await {
            let at_ms = Value::get(&value, "unix_ms").and_then(Value::as_u64).unwrap_or_default();
            if at_ms <= after_ms {
                continue;
            }
            latest_ms = latest_ms.max(at_ms);
            if records.send(Followed::Record(agent.node.clone(), value)).await.is_err() {
                return;
            }
        }
    };
    let follow = async {
        let ended = exec::follow(cluster, &agent.pod, &args, &lines).await;
        drop(lines);
        ended
    };
    let (ended, ()) = futures::join!(follow, pass_on);
    let reason = match ended {
        Ok(()) => "it sends no more".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    Ended { node: agent.node, latest_ms, reason }
}
