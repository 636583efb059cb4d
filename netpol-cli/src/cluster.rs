//! The objects of a live cluster, listed once.

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

/// How long complete lists of every kind are waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Updates that wait to be taken in.
const QUEUE: usize = 64;

/// What the API server told.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// All objects.
    pub(super) objects: Vec<Object>,
    /// Findings on them.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Kinds that could not be listed and that can be done without, with the reason.
    pub(super) missing: Vec<String>,
}

/// Lists every kind. Services and nodes may be missing: not everybody may list them.
pub(super) fn read(kubeconfig: Option<&Path>) -> anyhow::Result<Live> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the async runtime")?.block_on(list(kubeconfig))
}

async fn list(kubeconfig: Option<&Path>) -> anyhow::Result<Live> {
    let access = Access::open(kubeconfig).await.context("finding the cluster")?;
    let (out, mut updates) = mpsc::channel(QUEUE);
    let cancel = CancellationToken::new();
    let _stopped_at_the_end = cancel.clone().drop_guard();
    let _tasks = spawn(&access, &Options::default(), &out, &cancel);
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
            let is_settled = |kind: &Kind| matches!(freshness.of(*kind), Health::Broken { .. });
            if freshness.missing().iter().all(is_settled) {
                break;
            }
        }
    };
    // What is missing by then is told below.
    drop(timeout(PATIENCE, collect).await);

    let mut live = Live {
        objects: objects(&state),
        diagnostics: diagnostics.iter().cloned().collect(),
        missing: Vec::new(),
    };
    for kind in freshness.missing() {
        let reason = match freshness.of(kind) {
            Health::Broken { since: _, error } => error.to_string(),
            Health::Listing | Health::Synced { .. } => "the API server is too slow".to_owned(),
        };
        match kind {
            Kind::NetworkPolicy | Kind::Pod | Kind::Namespace => {
                anyhow::bail!("cannot list objects of kind {kind}: {reason}")
            }
            Kind::Service | Kind::Node => {
                live.missing.push(format!("answers do without objects of kind {kind}: {reason}"));
            }
        }
    }
    Ok(live)
}

fn objects(state: &ClusterState) -> Vec<Object> {
    let policies = state.policies().cloned().map(Object::Policy);
    let pods = state.pods().cloned().map(Object::Pod);
    let namespaces = state.namespaces().cloned().map(Object::Namespace);
    let services = state.services().cloned().map(Object::Service);
    let nodes = state.nodes().cloned().map(Object::Node);
    policies.chain(pods).chain(namespaces).chain(services).chain(nodes).collect()
}
