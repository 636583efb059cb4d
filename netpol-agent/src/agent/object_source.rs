//! The running source of objects, and requests to it: look-ups of single pods, and Events on objects.

use std::path::Path;
use std::sync::Arc;

use netpol_kube::{self, Access, Options, Report};
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::model::{Kind, Object, ObjectName, ObjectRef};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::Delta;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::config::Source;
use super::state::Agent;
use crate::manifests::watch as manifests;

/// Look-ups and reports that may wait for the API server.
const QUEUE: usize = 256;

/// A running source. Dropped: its tasks end.
#[derive(Debug)]
pub(super) enum ObjectSource {
    /// An API server.
    Cluster(Cluster),
    /// Files, which take neither look-ups nor reports.
    Manifests(#[expect(dead_code, reason = "held: the task ends with it")] JoinSet<()>),
}

impl ObjectSource {
    /// Starts the source. Its updates go to `updates` until `cancel` is cancelled.
    ///
    /// # Errors
    /// The API server cannot be configured.
    pub(super) async fn start(
        source: Source,
        node: Option<Arc<str>>,
        updates: &mpsc::Sender<SourceUpdate>,
        cancel: &CancellationToken,
    ) -> Result<Self, netpol_kube::Error> {
        Ok(match source {
            Source::Cluster { kubeconfig } => {
                Self::Cluster(Cluster::start(kubeconfig.as_deref(), node, updates, cancel).await?)
            }
            Source::Manifests(dir) => Self::Manifests(manifests::spawn(
                dir,
                manifests::Options::default(),
                updates,
                cancel,
            )),
        })
    }

    /// Looks up pods that no watch has reported yet. If the queue is full, the next ADD asks again.
    pub(super) fn look_up(&self, pods: Vec<ObjectName>) {
        match self {
            Self::Cluster(cluster) => {
                for pod in pods {
                    drop(cluster.look_ups.try_send(pod));
                }
            }
            Self::Manifests(_) => drop(pods),
        }
    }

    /// Reports the diagnostics of an object as a Kubernetes Event, for the author of the object.
    pub(super) fn report<K: Kernel>(&self, agent: &Agent<K>, object: ObjectRef) {
        match self {
            Self::Cluster(cluster) => {
                let uid = match object.kind {
                    Kind::NetworkPolicy => {
                        agent.state().policy(&object.name).map(|policy| Arc::clone(&policy.uid))
                    }
                    Kind::Pod => agent.state().pod(&object.name).map(|pod| Arc::clone(&pod.uid)),
                    Kind::Namespace | Kind::Service | Kind::Node => None,
                };
                let diagnostics = agent.diagnostics().of(&object).into_iter().cloned().collect();
                let report =
                    Report { object, uid: uid.unwrap_or_else(|| Arc::from("")), diagnostics };
                if let Err(error) = cluster.reports.try_send(report) {
                    debug!(%error, "diagnostics logged, but not reported as an Event");
                }
            }
            Self::Manifests(_) => drop(object),
        }
    }
}

/// The tasks that talk to the API server.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Pods of CNI ADDs that no watch has reported yet.
    look_ups: mpsc::Sender<ObjectName>,
    /// Diagnostics to be reported as Events.
    reports: mpsc::Sender<Report>,
    /// Held: the tasks end with it.
    _tasks: JoinSet<()>,
}

impl Cluster {
    /// Starts the watches, the look-up of single pods and the reports.
    async fn start(
        kubeconfig: Option<&Path>,
        node: Option<Arc<str>>,
        updates: &mpsc::Sender<SourceUpdate>,
        cancel: &CancellationToken,
    ) -> Result<Self, netpol_kube::Error> {
        let access = Access::open(kubeconfig).await?;
        let options = Options { node: node.clone(), ..Options::default() };
        let mut tasks = netpol_kube::spawn(&access, &options, updates, cancel);
        let (look_ups, asked) = mpsc::channel(QUEUE);
        tasks.spawn(look_up(access.clone(), asked, updates.clone()));
        let (reports, reported) = mpsc::channel(QUEUE);
        let node = node.unwrap_or_else(|| Arc::from("netpol-agent"));
        tasks.spawn(netpol_kube::report(access, node, reported, cancel.clone()));
        Ok(Self { look_ups, reports, _tasks: tasks })
    }
}

/// Looks up one pod after the other, and sends each as an update, as a watch would. A pod that does not exist gets none.
async fn look_up(
    access: Access,
    mut asked: mpsc::Receiver<ObjectName>,
    updates: mpsc::Sender<SourceUpdate>,
) {
    while let Some(name) = asked.recv().await {
        let (pod, diagnostics) = match netpol_kube::pod(&access.client(), &name).await {
            Ok(found) => found,
            Err(error) => {
                warn!(pod = %name, error = &error as &dyn std::error::Error, "pod not looked up");
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
