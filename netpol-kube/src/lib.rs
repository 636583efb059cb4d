//! Lists and watches the objects of an API server.
//!
//! In: lists and watches of every kind in [`Kind`], one task for each; [`Kind::ClusterNetworkPolicy`] while the server serves it. Out: [`SourceUpdate`]s, which hold deltas, diagnostics
//! about objects, and the health of each kind. A list is sent only when it is complete, as one `Replace`. Diagnostics are
//! written back as Kubernetes Events ([`report`]). Why this is not kube-runtime's `watcher`: `docs/design/watch.md`.
//! Must not: keep objects, because the store holds the only copy; or end on an error, because the last state stays in force and
//! the next attempt follows.
#![forbid(unsafe_code)]

mod access;
mod addresses;
mod backends;
mod background;
mod cluster_policies;
mod decode;
mod dial;
mod discovery;
mod failure;
mod follow;
mod listing;
mod namespace;
mod notice;
mod pod;
pub mod policy_status;
pub mod published;
mod report;
mod request;
mod retry;
mod taint;
mod transport;
mod version;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use access::{Access, Error};
pub use addresses::addresses;
pub use backends::follow_backends;
pub use namespace::namespace;
pub use pod::pod;
pub use report::{Report, rank, report};
pub use taint::{Removal, remove_taint};
pub use transport::Keepalive;
pub use version::minor_version;

use cluster_policies::{ClusterPolicies, Nodes};
use follow::{Follower, Recoveries};
use netpol_policy::model::Kind;
use netpol_policy::source::SourceUpdate;
use request::Scope;

/// Settings of the watches. The defaults suit a cluster; tests use shorter durations.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node on which the agent runs. Only its Node object is watched, unless the server has `ClusterNetworkPolicies`, whose
    /// rules may select any node; without a name, all Nodes are.
    pub node: Option<Arc<str>>,
    /// Objects per page of a list.
    pub page_size: u32,
    /// Upper bound of the delay after the first failure. It doubles with each further failure.
    pub min_retry: Duration,
    /// Upper bound of the delay after any failure.
    pub max_retry: Duration,
    /// A watch on which nothing arrives for this long is reported as broken and begun again. API servers send a bookmark about
    /// once a minute, so by then two are missing. A dead connection is noticed earlier, by its [`Keepalive`]; this is for a
    /// proxy or a server that keeps the connection open and sends nothing.
    pub patience: Duration,
    /// A streaming list on which nothing arrives for this long is replaced by a list in pages.
    pub streaming_patience: Duration,
    /// How often a server without `ClusterNetworkPolicies` is asked whether it has them now.
    pub discovery_period: Duration,
    /// How long other policies wait for a server that does not say whether it has `ClusterNetworkPolicies`.
    pub discovery_patience: Duration,
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
            discovery_period: Duration::from_mins(1),
            discovery_patience: Duration::from_secs(5),
        }
    }
}

/// Lists and watches every kind until `cancel` is cancelled or the receiving end of `out` is dropped.
///
/// The first update of each kind is [`Health::Listing`](netpol_policy::source::Health).
pub fn spawn(
    access: &Access,
    options: &Options,
    out: &mpsc::Sender<SourceUpdate>,
    cancel: &CancellationToken,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let recoveries = Recoveries::new(0);
    let nodes = watch::Sender::new(match options.node {
        Some(_) => Nodes::Own,
        None => Nodes::All { listed: false },
    });
    let follower = |kind| {
        let scope = Scope { kind, name: None, path: None };
        Follower::new(scope, access.clone(), options.clone(), out.clone(), recoveries.clone())
    };
    let mut spawn = |task: BoxFuture<'static, ()>| {
        let cancel = cancel.clone();
        tasks.spawn(async move {
            // Nothing is left to do, whether cancelled or not.
            let _: Option<()> = cancel.run_until_cancelled(task).await;
        });
    };
    for kind in Kind::BUILT_IN.into_iter().filter(|kind| *kind != Kind::Node) {
        spawn(follower(kind).run().map(drop).boxed());
    }
    spawn({
        let (access, options, out) = (access.clone(), options.clone(), out.clone());
        follow_nodes(access, options, out, recoveries.clone(), nodes.clone()).boxed()
    });
    let (access, options, out) = (access.clone(), options.clone(), out.clone());
    spawn(ClusterPolicies::new(access, options, out, recoveries, nodes).run().boxed());
    tasks
}

/// Lists and watches the own node, and all of them from when they are wanted.
async fn follow_nodes(
    access: Access,
    options: Options,
    out: mpsc::Sender<SourceUpdate>,
    recoveries: Recoveries,
    nodes: watch::Sender<Nodes>,
) {
    let mut wanted = nodes.subscribe();
    loop {
        let is_own = *wanted.borrow_and_update() == Nodes::Own;
        let name = options.node.as_deref().filter(|_| is_own).map(str::to_owned);
        let scope = Scope { kind: Kind::Node, name, path: None };
        let (access, options, out) = (access.clone(), options.clone(), out.clone());
        let listed = nodes.clone();
        let follower = Follower::new(scope, access, options, out, recoveries.clone());
        let follower = follower.on_list(move || {
            listed.send_if_modified(|nodes| {
                let is_new = *nodes == Nodes::All { listed: false } && !is_own;
                if is_new {
                    *nodes = Nodes::All { listed: true };
                }
                is_new
            });
        });
        tokio::select! {
            _ = follower.run() => return,
            _ = wanted.wait_for(|nodes| is_own && *nodes != Nodes::Own) => {}
        }
    }
}
