//! The live cluster as the agent's source, and what goes back to it.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use netpol_kube::{self, Access, Options, Report};
use netpol_policy::model::{Kind, Object, ObjectName, ObjectRef};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::Delta;

/// Questions and reports that wait for the API server.
const QUEUE: usize = 256;

/// What the event loop may ask of the API server.
#[derive(Debug)]
pub(super) struct Uplink {
    /// Pods that a CNI ADD speaks of and that no watch has told yet.
    pub(super) wanted: mpsc::Sender<ObjectName>,
    /// Findings for the people who wrote the objects.
    pub(super) reports: mpsc::Sender<Report>,
    /// The tasks; they end with it.
    _tasks: JoinSet<()>,
}

impl Uplink {
    /// Starts the watches, the look-up of single pods and the reports.
    pub(super) async fn open(
        kubeconfig: Option<&Path>,
        node: Option<Arc<str>>,
        updates: &mpsc::Sender<SourceUpdate>,
        cancel: &CancellationToken,
    ) -> Result<Self, netpol_kube::Error> {
        let access = Access::open(kubeconfig).await?;
        let options = Options { node: node.clone(), ..Options::default() };
        let mut tasks = netpol_kube::spawn(&access, &options, updates, cancel);
        let (wanted, asked) = mpsc::channel(QUEUE);
        tasks.spawn(look_up(access.clone(), asked, updates.clone()));
        let (reports, reported) = mpsc::channel(QUEUE);
        let node = node.unwrap_or_else(|| Arc::from("netpol-agent"));
        tasks.spawn(netpol_kube::report(access, node, reported, cancel.clone()));
        Ok(Self { wanted, reports, _tasks: tasks })
    }
}

/// Answers with what a watch would tell. A pod that does not exist is told by nothing.
async fn look_up(
    access: Access,
    mut asked: mpsc::Receiver<ObjectName>,
    updates: mpsc::Sender<SourceUpdate>,
) {
    while let Some(name) = asked.recv().await {
        let (pod, diagnostics) = match netpol_kube::pod(&access.client(), &name).await {
            Ok(found) => found,
            Err(error) => {
                warn!(pod = %name, error = &error as &dyn std::error::Error, "pod not found out");
                continue;
            }
        };
        let Some(pod) = pod else { continue };
        let object = ObjectRef { kind: Kind::Pod, name };
        let update = SourceUpdate {
            deltas: vec![Delta::Upsert(Object::Pod(pod))],
            diagnostics: vec![(object, diagnostics)],
            health: Vec::new(),
        };
        if updates.send(update).await.is_err() {
            return;
        }
    }
}
