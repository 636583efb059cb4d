//! ClusterNetworkPolicies: a kind that an API server may not have, get, lose, or serve in another version.
//!
//! ```text
//!                 ┌── not served ──▶ asks again every minute
//! which version? ─┼── does not say ─▶ asks again after a delay
//!                 └── served ──▶ list and watch until they are not found ──▶ which version?
//! ```
//! NetworkPolicies do not wait for this kind: until it is listed once the agent waits only while the server serves it, or a few
//! seconds for an answer. What has been listed stays in force until the server has denied twice that it serves the kind.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::Options;
use super::access::{Access, Error};
use super::discovery;
use super::failure::Stopped;
use super::follow::{End, Follower, Recoveries};
use super::request::Scope;
use super::retry::{Retry, spread};
use netpol_policy::model::Kind;
use netpol_policy::source::{Health, SourceUpdate};
use netpol_policy::store::{Delta, List};

/// So many answers in a row that the kind is not served remove its objects.
const N_DENIALS: u32 = 2;

/// Which nodes are watched: the own one only, unless policies may select others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nodes {
    /// The own one.
    Own,
    /// All of them; whether they have been listed.
    All {
        /// They have been listed.
        listed: bool,
    },
}

/// The search for the kind, and its list and watch while it is served.
pub(super) struct ClusterPolicies {
    access: Access,
    options: Options,
    out: mpsc::Sender<SourceUpdate>,
    recoveries: Recoveries,
    nodes: watch::Sender<Nodes>,
    retry: Retry,
    /// Nothing waits for the kind any more.
    is_resolved: bool,
    /// A complete list has been sent and not been taken back.
    is_listed: bool,
    n_denials: u32,
    /// Since when the server does not say whether it serves the kind.
    unknown_since: Option<Instant>,
}

impl ClusterPolicies {
    /// The search, which begins in [`ClusterPolicies::run`].
    pub(super) fn new(
        access: Access,
        options: Options,
        out: mpsc::Sender<SourceUpdate>,
        recoveries: Recoveries,
        nodes: watch::Sender<Nodes>,
    ) -> Self {
        let retry = Retry::new(options.min_retry, options.max_retry);
        Self {
            access,
            options,
            out,
            recoveries,
            nodes,
            retry,
            is_resolved: false,
            is_listed: false,
            n_denials: 0,
            unknown_since: None,
        }
    }

    /// Searches, lists and watches until the agent drops the receiving end.
    pub(super) async fn run(mut self) {
        let mut sent = self.send(vec![Health::Listing], Vec::new()).await;
        while sent.is_ok() {
            let latest = self.access.latest();
            sent = match discovery::path(&latest.client).await {
                Ok(Some(path)) => self.follow(path).await,
                Ok(None) => self.deny().await,
                Err(error) => self.fail(&error, latest.number).await,
            };
        }
    }

    /// Lists and watches while the server serves the kind under this path.
    async fn follow(&mut self, path: String) -> Result<(), Stopped> {
        info!(path, "ClusterNetworkPolicies are served");
        self.retry.reset();
        self.n_denials = 0;
        self.unknown_since = None;
        self.until_nodes_are_listed().await;
        let scope = Scope { kind: Kind::ClusterNetworkPolicy, name: None, path: Some(path) };
        let (access, options) = (self.access.clone(), self.options.clone());
        let follower =
            Follower::new(scope, access, options, self.out.clone(), self.recoveries.clone());
        match follower.run().await {
            End::Stopped => Err(Stopped),
            End::NotFound { was_listed } => {
                self.is_resolved |= was_listed;
                self.is_listed |= was_listed;
                Ok(())
            }
        }
    }

    /// Waits until all nodes are known, because rules may select any; not for ever, because most do not.
    async fn until_nodes_are_listed(&self) {
        self.nodes.send_if_modified(|nodes| {
            let is_new = *nodes == Nodes::Own;
            if is_new {
                *nodes = Nodes::All { listed: false };
            }
            is_new
        });
        let mut nodes = self.nodes.subscribe();
        let listed = nodes.wait_for(|nodes| *nodes == Nodes::All { listed: true });
        drop(timeout(self.options.discovery_patience, listed).await);
    }

    /// The server does not serve the kind.
    async fn deny(&mut self) -> Result<(), Stopped> {
        self.retry.reset();
        self.n_denials = self.n_denials.saturating_add(1);
        // Nothing is in force that a second answer would have to confirm.
        let ends_doubt = self.unknown_since.take().is_some() && !self.is_listed;
        if !self.is_resolved || ends_doubt || self.n_denials == N_DENIALS {
            let gone = List::new(Kind::ClusterNetworkPolicy, Vec::new(), Vec::new());
            let deltas = if self.is_listed { vec![Delta::Replace(gone)] } else { Vec::new() };
            self.is_resolved = true;
            self.is_listed = false;
            self.send(vec![Health::Unserved], deltas).await?;
        }
        self.wait(spread(self.options.discovery_period)).await
    }

    /// The server does not say whether it serves the kind.
    async fn fail(&mut self, error: &Error, client: u64) -> Result<(), Stopped> {
        let now = Instant::now();
        let since = *self.unknown_since.get_or_insert(now);
        let broken =
            Health::Broken { since: since.into_std(), error: Arc::from(error.to_string()) };
        if self.is_listed {
            self.send(vec![broken], Vec::new()).await?;
        } else if !self.is_resolved && now - since >= self.options.discovery_patience {
            warn!(%error, "the server does not say whether it serves ClusterNetworkPolicies");
            self.is_resolved = true;
            self.send(vec![Health::Unserved, broken], Vec::new()).await?;
        }
        let delay = self.retry.next_delay();
        self.wait(delay).await?;
        if matches!(error.status(), None | Some(401)) {
            // The next attempt uses the newest client in any case.
            drop(self.access.renew(client).await);
        }
        Ok(())
    }

    async fn wait(&self, delay: Duration) -> Result<(), Stopped> {
        tokio::select! {
            () = sleep(delay) => Ok(()),
            () = self.out.closed() => Err(Stopped),
        }
    }

    async fn send(&self, health: Vec<Health>, deltas: Vec<Delta>) -> Result<(), Stopped> {
        let health =
            health.into_iter().map(|health| (Kind::ClusterNetworkPolicy, health)).collect();
        let update = SourceUpdate { deltas, health, ..SourceUpdate::default() };
        self.out.send(update).await.map_err(|_closed| Stopped)
    }
}
