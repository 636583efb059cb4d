//! The latest drops, kept for `netpol-agent drops` and sent to its followers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use netpol_common::keys::CounterKey;
use netpol_datapath::Events;
use netpol_observer::records::NotShownRecord;
use netpol_policy::dataplane::port::Kernel;
use serde::Serialize;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::handle::Handle;
use super::not_shown::NotShown;
use super::report::of_unnamed;
use crate::agent::clock::unix_now;
use crate::agent::state::Agent;

/// Number of records that are kept.
const KEPT: usize = 1000;
/// Number of records that a slow follower may be behind before it misses some.
const LAG: usize = 1024;

/// Time between two looks at the counters, while a follower wants to know of drops without a record.
const LOOK_PERIOD: Duration = Duration::from_millis(300);

/// A drop as one line of JSON.
#[derive(Clone, Debug)]
struct Line {
    /// Time since 1970.
    at: Duration,
    text: Arc<str>,
}

/// Which lines are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Only records that are not older.
    pub(super) since: Option<Duration>,
    /// Also those to come.
    pub(super) follow: bool,
    /// Also the number of those without a record.
    pub(super) not_shown: bool,
}

/// Parses `follow&since=SECONDS&not-shown`, each of which may be missing.
///
/// # Errors
/// A field is unknown or not valid.
pub(super) fn wanted(query: &str) -> Result<Wanted, String> {
    let mut wanted = Wanted::default();
    for field in query.split('&').filter(|field| !field.is_empty()) {
        match field.split_once('=').unwrap_or((field, "")) {
            ("follow", "") => wanted.follow = true,
            ("not-shown", "") => wanted.not_shown = true,
            ("since", seconds) => {
                let seconds = seconds.parse().map_err(|error| format!("since: {error}"))?;
                wanted.since = Some(Duration::from_secs(seconds));
            }
            _ => return Err(format!("no such field: {field}")),
        }
    }
    Ok(wanted)
}

/// The answer to a question.
#[derive(Debug)]
struct Lines {
    kept: Vec<Line>,
    live: broadcast::Receiver<Line>,
    not_shown: broadcast::Receiver<Line>,
}

/// Access to the latest drops. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::agent) struct DropLog {
    asked: mpsc::Sender<oneshot::Sender<Lines>>,
}

impl DropLog {
    /// Collects the records of the event ring until `cancel` is cancelled.
    pub(in crate::agent) fn spawn<K: Kernel + Send + 'static>(
        mut events: Events,
        handle: Handle<K>,
        cancel: CancellationToken,
    ) -> Self {
        let (asked, mut questions) = mpsc::channel::<oneshot::Sender<Lines>>(4);
        let (live, _) = broadcast::channel(LAG);
        let (not_shown, _) = broadcast::channel(LAG);
        let mut kept: VecDeque<Line> = VecDeque::new();
        let mut tally = NotShown::default();
        let mut looks = tokio::time::interval(LOOK_PERIOD);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    Some(reply) = questions.recv() => {
                        let kept = kept.iter().cloned().collect();
                        // The task that asked may have ended.
                        drop(reply.send(Lines { kept, live: live.subscribe(), not_shown: not_shown.subscribe() }));
                    }
                    _ = looks.tick(), if not_shown.receiver_count() > 0 => {
                        for record in look(&handle, &mut tally).await {
                            // The follower may have ended.
                            drop(line(&record, unix_now()).map(|line| not_shown.send(line)));
                        }
                    }
                    event = events.next() => {
                        let event = match event {
                            Ok(event) => event,
                            Err(error) => {
                                error!(%error, "event ring not readable: drops are counted, but not reported any more");
                                return;
                            }
                        };
                        let (ifindex, direction, verdict) = (event.ifindex, event.direction, event.verdict);
                        tally.record(CounterKey { ifindex, direction, verdict, pad: [0; 2] });
                        let now = unix_now();
                        let Some(record) = handle.ask(move |agent| agent.name_event(&event, now)).await else { return };
                        let Some(newest) = line(&record, now) else { continue };
                        if kept.len() == KEPT {
                            kept.pop_front();
                        }
                        kept.push_back(newest.clone());
                        // There may be no follower.
                        drop(live.send(newest));
                    }
                }
                if not_shown.receiver_count() == 0 {
                    tally = NotShown::default();
                }
            }
        });
        Self { asked }
    }

    /// The wanted records, oldest first, each as one line.
    pub(super) async fn lines(&self, wanted: Wanted) -> BoxStream<'static, String> {
        let Wanted { since, follow, not_shown } = wanted;
        let Some(lines) = self.ask().await else { return stream::empty().boxed() };
        let now = unix_now();
        let is_recent = |line: &Line| since.is_none_or(|since| line.at + since >= now);
        let kept: Vec<_> =
            lines.kept.into_iter().filter(is_recent).map(|line| line.text.to_string()).collect();
        let kept = stream::iter(kept);
        match (follow, not_shown) {
            (false, _) => kept.boxed(),
            (true, false) => kept.chain(texts(lines.live, Lagging::Silent)).boxed(),
            (true, true) => {
                let live = texts(lines.live, Lagging::Counted);
                kept.chain(stream::select(live, texts(lines.not_shown, Lagging::Silent))).boxed()
            }
        }
    }

    async fn ask(&self) -> Option<Lines> {
        let (reply, answer) = oneshot::channel();
        self.asked.send(reply).await.ok()?;
        answer.await.ok()
    }
}

/// What a follower that is too slow gets for the records that it misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lagging {
    Silent,
    /// Their number.
    Counted,
}

fn texts(lines: broadcast::Receiver<Line>, lagging: Lagging) -> BoxStream<'static, String> {
    let texts = stream::unfold(lines, move |mut lines| async move {
        loop {
            match lines.recv().await {
                Ok(line) => return Some((line.text.to_string(), lines)),
                Err(broadcast::error::RecvError::Lagged(n)) if lagging == Lagging::Counted => {
                    let now = unix_now();
                    if let Some(line) = line(&of_unnamed(n, now), now) {
                        return Some((line.text.to_string(), lines));
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    });
    texts.boxed()
}

fn line(record: &impl Serialize, at: Duration) -> Option<Line> {
    let text = serde_json::to_string(record).ok()?;
    Some(Line { at, text: Arc::from(text) })
}

/// The drops without a record since the look before.
async fn look<K: Kernel + Send + 'static>(
    handle: &Handle<K>,
    tally: &mut NotShown,
) -> Vec<NotShownRecord> {
    // Without counters there is nothing to compare.
    let counters = handle.ask(|agent| agent.counters().ok()).await.flatten();
    let Some(counters) = counters else { return Vec::new() };
    let found = tally.look(&counters);
    if found.is_empty() {
        return Vec::new();
    }
    let now = unix_now();
    let name = move |agent: &mut Agent<K>| {
        let named = found.into_iter().map(|(key, n)| agent.name_not_shown(key, n, now));
        named.collect()
    };
    handle.ask(name).await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_names_what_is_wanted() {
        let all = wanted("follow&since=90&not-shown").unwrap();
        let since = Some(Duration::from_secs(90));
        assert_eq!(all, Wanted { since, follow: true, not_shown: true });
        assert_eq!(wanted("").unwrap(), Wanted::default());
        assert_eq!(wanted("since=x").unwrap_err(), "since: invalid digit found in string");
        assert_eq!(wanted("all").unwrap_err(), "no such field: all");
    }
}
