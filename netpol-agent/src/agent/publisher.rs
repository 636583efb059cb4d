//! Publishes addresses of this node's pods before the API reports them, and follows what other nodes publish.
//!
//! In: the pods to publish. Out: the object of the own node, and updates about those of the others. Must not: end the agent, write more
//! often than [`Allowance`] permits, or do anything where no admission policy of the API server keeps each agent to its own object.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use netpol_kube::published::{self, Followed, GUARD, Guard};
use netpol_kube::{Access, Error, Options};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::PublishedPod;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::state::publishing::{PublishingOutcome, PublishingTask};

/// Pause before the admission policy is looked for again.
const GUARD_INTERVAL: Duration = Duration::from_mins(1);

/// Time between two looks at a policy that is in place, and at the uid of the own Node, which can be made anew.
const RECHECK_INTERVAL: Duration = Duration::from_mins(10);

/// How long a pod stays published that needs it no longer, so that it costs no write of its own while pods start.
const REMOVED_AFTER: Duration = Duration::from_secs(5);

/// Writes that may follow each other without a pause.
const BURST: u32 = 10;

/// Time after which one more write is allowed.
const PERIOD: Duration = Duration::from_millis(100);

/// Pause after a failure; it doubles up to the second one.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// Publishes and follows until the event loop ends.
pub(super) async fn run(
    access: Access,
    node: Arc<str>,
    options: Options,
    task: PublishingTask,
    updates: mpsc::Sender<SourceUpdate>,
) {
    let PublishingTask { wanted, outcome, in_force: _ } = task;
    let mut writer = Writer { access: access.clone(), node, wanted, outcome };
    let mut followed = Followed::default();
    loop {
        match published::guard(&access.client()).await {
            Ok(Guard::InPlace) => {
                writer.set_off(None);
                info!("addresses of pods are published before the API reports them");
                tokio::select! {
                    () = published::follow(access.clone(), &options, &updates, &mut followed) => return,
                    () = writer.write() => return,
                    () = until_unguarded(&access) => {}
                }
                followed.forget(&updates).await;
            }
            Ok(Guard::Missing) => {
                writer.set_off(Some(format!(
                    "the API server has no ValidatingAdmissionPolicy {GUARD}, which needs Kubernetes 1.30"
                )));
                sleep(GUARD_INTERVAL).await;
            }
            Err(error) => {
                writer.set_off(Some(error.to_string()));
                sleep(GUARD_INTERVAL).await;
            }
        }
    }
}

/// Waits until the API server says that it does not keep agents to their own objects.
async fn until_unguarded(access: &Access) {
    loop {
        sleep(RECHECK_INTERVAL).await;
        if matches!(published::guard(&access.client()).await, Ok(Guard::Missing)) {
            return;
        }
    }
}

/// Writes the own object.
struct Writer {
    access: Access,
    node: Arc<str>,
    wanted: watch::Receiver<BTreeSet<PublishedPod>>,
    outcome: watch::Sender<PublishingOutcome>,
}

impl Writer {
    fn set_off(&self, off: Option<String>) {
        self.outcome.send_if_modified(|outcome| {
            let is_new = outcome.off != off;
            if let Some(reason) = off.as_ref().filter(|_| is_new) {
                info!(reason, "addresses of pods are not published before the API reports them");
            }
            outcome.off = off;
            is_new
        });
    }

    /// Writes until the event loop ends.
    async fn write(&mut self) {
        let mut allowance = Allowance::new();
        let [first, _] = PAUSES;
        let mut pause = first;
        // Of an earlier run of the agent.
        let mut written = loop {
            match published::published(&self.access.client(), &self.node).await {
                Ok(pods) => break pods.into_iter().collect::<BTreeSet<_>>(),
                Err(error) => self.fail(&error, &mut pause).await,
            }
        };
        pause = first;
        let mut uid: Option<(Instant, String)> = None;
        loop {
            let next = self.wanted.borrow_and_update().clone();
            if next == written {
                if self.wanted.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if next.is_subset(&written) {
                tokio::select! {
                    () = sleep(REMOVED_AFTER) => {}
                    changed = self.wanted.changed() => match changed {
                        Ok(()) => continue,
                        Err(_closed) => return,
                    },
                }
            }
            allowance.take().await;
            let next = self.wanted.borrow_and_update().clone();
            match self.write_once(&next, &mut uid).await {
                Ok(n_bytes) => {
                    debug!(n_pods = next.len(), n_bytes, "addresses published");
                    self.outcome.send_modify(|outcome| {
                        outcome.n_writes += 1;
                        outcome.n_bytes += u64::try_from(n_bytes).unwrap_or(u64::MAX);
                        outcome.error = None;
                    });
                    written = next;
                    pause = first;
                }
                Err(error) => self.fail(&error, &mut pause).await,
            }
        }
    }

    async fn write_once(
        &self,
        pods: &BTreeSet<PublishedPod>,
        uid: &mut Option<(Instant, String)>,
    ) -> Result<usize, Failure> {
        let client = self.access.client();
        let known = uid.take().filter(|(at, _)| at.elapsed() < RECHECK_INTERVAL);
        let (at, known) = if let Some(known) = known {
            known
        } else {
            let found = published::node_uid(&client, &self.node).await?;
            (Instant::now(), found.ok_or(Failure::NoNode)?)
        };
        let pods: Vec<PublishedPod> = pods.iter().cloned().collect();
        let n_bytes = published::publish(&client, &self.node, &known, &pods).await;
        *uid = Some((at, known));
        Ok(n_bytes?)
    }

    /// Counts and logs a failure, and waits.
    async fn fail(&self, error: &(dyn std::error::Error + Sync), pause: &mut Duration) {
        let error = error.to_string();
        warn!(error, "addresses of pods not published before the API reports them");
        self.outcome.send_modify(|outcome| {
            outcome.n_failures += 1;
            outcome.error = Some(error);
        });
        sleep(*pause).await;
        let [_, last] = PAUSES;
        *pause = (*pause * 2).min(last);
    }
}

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The API server refuses it, or cannot be reached.
    #[error(transparent)]
    Request(#[from] Error),
    /// The object could not be deleted with its Node.
    #[error("the Node of this agent does not exist")]
    NoNode,
}

/// How often the object may be written: [`BURST`] times at once, and then once in each [`PERIOD`].
struct Allowance {
    /// When all of the burst is allowed again.
    full_at: Instant,
}

impl Allowance {
    fn new() -> Self {
        Self { full_at: Instant::now() }
    }

    /// Waits until one more write is allowed.
    async fn take(&mut self) {
        let allowed_at = self.next(Instant::now());
        sleep_until(allowed_at).await;
    }

    /// Counts one more write. Returns when it is allowed.
    fn next(&mut self, now: Instant) -> Instant {
        self.full_at = self.full_at.max(now) + PERIOD;
        // Later than now only if more than the burst has been taken.
        self.full_at.checked_sub(PERIOD * BURST).unwrap_or(now).max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_needs_no_pause_and_then_writes_are_spaced() {
        let mut allowance = Allowance::new();
        let began = Instant::now();
        let n_at_once = (0..30).filter(|_| allowance.next(began) == began).count();
        assert_eq!(n_at_once, 10);
        assert_eq!(allowance.next(began) - began, 21 * PERIOD);
        let later = began + 31 * PERIOD;
        let n_at_once = (0..30).filter(|_| allowance.next(later) == later).count();
        assert_eq!(n_at_once, 10);
    }
}
