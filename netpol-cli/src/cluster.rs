//! Lists the objects of a live cluster once.
//!
//! In: access to the API server. Out: all objects, and findings. Must not: watch on.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use netpol_kube::{Access, Options, spawn};
use netpol_policy::model::{Diagnostic, Kind, Object};
use netpol_policy::source::{DiagnosticIndex, Freshness, Health, SourceUpdate};
use netpol_policy::store::ClusterState;

/// The time limit for listing all kinds.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Capacity of the channel of updates.
const QUEUE: usize = 64;

/// The objects that the API server listed.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// All objects.
    pub(super) objects: Vec<Object>,
    /// Findings on these objects.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// A message for each optional kind that could not be listed, with the reason.
    pub(super) missing: Vec<String>,
}

/// Lists every kind. Services and nodes are optional, because the user may not be permitted to list them.
pub(super) fn read(kubeconfig: Option<&Path>, context: Option<&str>) -> anyhow::Result<Live> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the async runtime")?.block_on(async {
        let access = Access::open_context(kubeconfig, context).await;
        let access = access.context("cannot access the cluster")?;
        list(&access).await
    })
}

/// As [`read`], in a runtime.
pub(super) async fn list(access: &Access) -> anyhow::Result<Live> {
    let (out, mut updates) = mpsc::channel(QUEUE);
    let cancel = CancellationToken::new();
    let _stopped_at_the_end = cancel.clone().drop_guard();
    let _tasks = spawn(access, &Options::default(), &out, &cancel);
    drop(out);

    let mut state = ClusterState::default();
    let mut diagnostics = DiagnosticIndex::default();
    let mut freshness = Freshness::default();
    let collect = async {
        while let Some(update) = updates.recv().await {
            diagnostics.apply(&update);
            freshness.apply(&update);
            let SourceUpdate { deltas, diagnostics: _, health: _ } = update;
            for delta in deltas {
                drop(state.apply(delta));
            }
            let has_failed = |kind: &Kind| matches!(freshness.of(*kind), Health::Broken { .. });
            let (optional, mut awaited): (Vec<_>, Vec<_>) =
                freshness.missing().into_iter().partition(|kind| is_optional(*kind));
            // Without the others there is no result, so nothing waits for the optional ones.
            if awaited.is_empty() {
                awaited = optional;
            }
            if awaited.iter().all(has_failed) {
                break;
            }
        }
    };
    // Kinds that are missing after the time limit are reported below.
    drop(timeout(TIMEOUT, collect).await);

    let mut live = Live {
        objects: objects(&state),
        diagnostics: diagnostics.iter().cloned().collect(),
        missing: Vec::new(),
    };
    let missing = freshness.missing();
    // Nothing waits for a kind that a server need not have, so one that cannot be listed is not missing.
    let has_failed = |kind: &Kind| {
        *kind == Kind::ClusterNetworkPolicy && matches!(freshness.of(*kind), Health::Broken { .. })
    };
    for kind in freshness.kinds() {
        if !missing.contains(&kind) && !has_failed(&kind) {
            continue;
        }
        let reason = match freshness.of(kind) {
            Health::Broken { since: _, error } => error.to_string(),
            Health::Listing | Health::Synced { .. } | Health::Unserved => {
                format!("no complete list within {} s", TIMEOUT.as_secs())
            }
        };
        if !is_optional(kind) {
            anyhow::bail!("cannot list {kind} objects: {reason}")
        }
        live.missing
            .push(format!("cannot list {kind} objects, so results do not consider them: {reason}"));
    }
    Ok(live)
}

/// Whether there are results without the objects of the kind.
fn is_optional(kind: Kind) -> bool {
    match kind {
        Kind::NetworkPolicy | Kind::Pod | Kind::Namespace => false,
        Kind::ClusterNetworkPolicy | Kind::Service | Kind::Node => true,
    }
}

fn objects(state: &ClusterState) -> Vec<Object> {
    let policies = state.policies().cloned().map(Object::Policy);
    let pods = state.pods().cloned().map(Object::Pod);
    let namespaces = state.namespaces().cloned().map(Object::Namespace);
    let services = state.services().cloned().map(Object::Service);
    let nodes = state.nodes().cloned().map(Object::Node);
    let of_cluster = state.cluster_policies().cloned().map(Object::ClusterPolicy);
    policies.chain(of_cluster).chain(pods).chain(namespaces).chain(services).chain(nodes).collect()
}
