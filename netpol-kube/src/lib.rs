//! Objects from a live API server.
//!
//! In: lists and watches of every kind in [`Kind`], one task for each. Out: [`SourceUpdate`]s, that is
//! deltas, diagnostics of the objects that they came from, and how far each kind is known. A list is told
//! only when it is complete, as one `Replace`. Diagnostics go back as Kubernetes Events ([`report`]).
//! Must not: keep objects (the store is the only copy), or give up: whatever the server does, the last
//! state stays and the next attempt comes.
#![forbid(unsafe_code)]

mod access;
mod decode;
mod failure;
mod follow;
mod listing;
mod notice;
mod pod;
mod report;
mod request;
mod retry;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use access::{Access, Error};
pub use pod::pod;
pub use report::{Report, report};
pub use transport::Keepalive;

use follow::{Follower, Recoveries};
use netpol_policy::model::Kind;
use netpol_policy::source::SourceUpdate;

/// How to watch. The durations have defaults that suit a cluster; tests want shorter ones.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node on which the agent runs: the only one that is watched. All nodes if it is not known.
    pub node: Option<Arc<str>>,
    /// Objects in one page of a list.
    pub page_size: u32,
    /// Bound of the delay after the first failure; it doubles with each further one.
    pub min_retry: Duration,
    /// Bound of the delay after any failure.
    pub max_retry: Duration,
    /// A watch that is silent for so long is begun again, in case its connection is dead. API servers
    /// send a bookmark about once a minute.
    pub patience: Duration,
    /// A streaming list that is silent for so long is read in pages instead.
    pub streaming_patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node: None,
            page_size: 500,
            min_retry: Duration::from_millis(800),
            max_retry: Duration::from_secs(30),
            patience: Duration::from_mins(2),
            streaming_patience: Duration::from_secs(15),
        }
    }
}

/// Watches every kind until `cancel` is cancelled or the other end of `out` is dropped.
///
/// Each kind is told as [`Health::Listing`](netpol_policy::source::Health) first.
pub fn spawn(
    access: &Access,
    options: &Options,
    out: &mpsc::Sender<SourceUpdate>,
    cancel: &CancellationToken,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let recoveries = Recoveries::new(0);
    for kind in Kind::ALL {
        let (access, options, out) = (access.clone(), options.clone(), out.clone());
        let follower = Follower::new(kind, access, options, out, recoveries.clone());
        let cancel = cancel.clone();
        tasks.spawn(async move {
            // Cancelled or not, there is nothing left to do.
            let _: Option<()> = cancel.run_until_cancelled(follower.run()).await;
        });
    }
    tasks
}
