//! The latest drops, kept for `netpol-agent drops` and sent to its followers.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use netpol_datapath::Events;
use netpol_policy::dataplane::port::Kernel;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::handle::Handle;
use crate::agent::clock::unix_now;

/// Number of records that are kept.
const KEPT: usize = 1000;
/// Number of records that a slow follower may be behind before it misses some.
const LAG: usize = 1024;

/// A drop as one line of JSON.
type Line = Arc<str>;

/// Access to the latest drops. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::agent) struct DropLog {
    asked: mpsc::Sender<oneshot::Sender<(Vec<Line>, broadcast::Receiver<Line>)>>,
}

impl DropLog {
    /// Collects the records of the event ring until `cancel` is cancelled.
    pub(in crate::agent) fn spawn<K: Kernel + Send + 'static>(
        mut events: Events,
        handle: Handle<K>,
        cancel: CancellationToken,
    ) -> Self {
        let (asked, mut questions) = mpsc::channel::<oneshot::Sender<_>>(4);
        let (live, _) = broadcast::channel(LAG);
        let mut kept: VecDeque<Line> = VecDeque::new();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    Some(reply) = questions.recv() => {
                        // The task that asked may have ended.
                        drop(reply.send((kept.iter().cloned().collect(), live.subscribe())));
                    }
                    event = events.next() => {
                        let event = match event {
                            Ok(event) => event,
                            Err(error) => {
                                error!(%error, "event ring not readable: drops are counted, but not reported any more");
                                return;
                            }
                        };
                        let now = unix_now();
                        let Some(record) = handle.ask(move |agent| agent.name_event(&event, now)).await else { return };
                        let Ok(text) = serde_json::to_string(&record) else { continue };
                        let text: Line = Arc::from(text);
                        if kept.len() == KEPT {
                            kept.pop_front();
                        }
                        kept.push_back(Arc::clone(&text));
                        // There may be no follower.
                        drop(live.send(text));
                    }
                }
            }
        });
        Self { asked }
    }

    /// The records so far, oldest first.
    pub(in crate::agent) async fn latest(&self) -> Vec<Line> {
        self.ask().await.map_or_else(Vec::new, |(lines, _)| lines)
    }

    /// The records so far and those to come.
    pub(in crate::agent) async fn follow(&self) -> BoxStream<'static, String> {
        let Some((kept, live)) = self.ask().await else { return stream::empty().boxed() };
        let live = stream::unfold(live, |mut live| async move {
            loop {
                match live.recv().await {
                    Ok(text) => return Some((text, live)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        stream::iter(kept).chain(live).map(|line| line.to_string()).boxed()
    }

    async fn ask(&self) -> Option<(Vec<Line>, broadcast::Receiver<Line>)> {
        let (reply, answer) = oneshot::channel();
        self.asked.send(reply).await.ok()?;
        answer.await.ok()
    }
}
