//! The running source of objects, and requests to it: look-ups of single pods, and Events on objects.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpol_kube::published::NAMESPACE;
use netpol_kube::{self, Access, Options, Report};
use netpol_observer::dial;
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::model::{Kind, Object, ObjectName, ObjectRef};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::{Delta, OwnNodeEgress};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::answers::drops::DropLog;
use super::answers::handle::Handle;
use super::answers::routes;
use super::config::{PublishAddresses, Source};
use super::known_servers;
use super::policy_status::{self, Periods};
use super::publisher;
use super::startup_taint;
use super::state::Agent;
use super::state::held_policies::{NamespaceAnswer, NamespaceQuestion};
use super::state::publishing::PublishingTask;
use super::state::short_cuts::ShortCut;
use crate::control::{Route, service};
use crate::manifests::watch as manifests;

/// Look-ups and reports that may wait for the API server.
const QUEUE: usize = 256;

/// Pause after a question for a namespace that the API server did not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// What the observer is told.
pub(super) struct Observed {
    /// The file with a token by which it knows this agent.
    pub(super) token: PathBuf,
    /// The answers.
    pub(super) route: Route,
}

impl Observed {
    /// All that the observer may ask.
    pub(super) fn new<K: Kernel + Send + 'static>(
        token: PathBuf,
        handle: &Handle<K>,
        drops: &DropLog,
    ) -> Self {
        Self { token, route: routes::observed(handle.clone(), drops.clone()) }
    }
}

/// What a source does beside its lists and watches.
pub(super) struct Tasks {
    /// Publishes addresses of this node's pods.
    pub(super) publishing: PublishingTask,
    /// If connections to the own node need a rule, the backends of Services are followed.
    pub(super) own_node_egress: OwnNodeEgress,
    /// If packets between nodes take the short cut, all Nodes are watched, which say where their pods have their addresses.
    pub(super) short_cut: ShortCut,
    /// Answers the observer.
    pub(super) observed: Option<Observed>,
}

/// A running source. Dropped: its tasks end.
#[derive(Debug)]
pub(super) enum ObjectSource {
    /// An API server.
    Cluster(Cluster),
    /// Files, which take neither look-ups nor reports.
    Manifests(#[expect(dead_code, reason = "held: the task ends with it")] JoinSet<()>),
}

impl ObjectSource {
    /// Starts the source. `servers` is the file for the addresses of the API servers. Its updates go to `updates`, and answers to [`ObjectSource::ask`] to `namespaces`, until `cancel` is
    /// cancelled.
    ///
    /// # Errors
    /// The API server cannot be configured.
    pub(super) async fn start(
        source: Source,
        node: Option<Arc<str>>,
        servers: PathBuf,
        Tasks { publishing, own_node_egress, short_cut, observed }: Tasks,
        updates: &mpsc::Sender<SourceUpdate>,
        namespaces: &mpsc::Sender<(NamespaceQuestion, NamespaceAnswer)>,
        cancel: &CancellationToken,
    ) -> Result<Self, netpol_kube::Error> {
        Ok(match source {
            Source::Cluster { kubeconfig, startup_taint, publish_addresses } => {
                let access = Access::open(kubeconfig.as_deref()).await?;
                let nodes = match short_cut {
                    ShortCut::Nodes => None,
                    ShortCut::On | ShortCut::Off => node.clone(),
                };
                let options = Options { node: nodes, ..Options::default() };
                let mut cluster = Cluster::start(
                    access.clone(),
                    (node.clone(), options),
                    servers,
                    updates,
                    namespaces,
                    cancel,
                );
                if let Some(node) = &node {
                    cluster.report_in_force(access.clone(), Arc::clone(node), &publishing);
                }
                if own_node_egress == OwnNodeEgress::Judge {
                    cluster.follow_backends(access.clone(), updates);
                }
                if let Some(observed) = observed {
                    cluster.answer_observer(access.clone(), observed);
                }
                match (publish_addresses, &node) {
                    (PublishAddresses::On, Some(node)) => {
                        cluster.publish(access.clone(), Arc::clone(node), publishing, updates);
                    }
                    (PublishAddresses::On, None) => publishing.set_off("the node name is not set"),
                    (PublishAddresses::Off, _) => publishing.set_off("--publish-addresses off"),
                }
                match (startup_taint, node) {
                    (Some(taint), Some(node)) => cluster.remove_taint(access, node, taint),
                    (Some(_), None) => warn!("start-up taint not removed: node name not set"),
                    (None, _) => {}
                }
                Self::Cluster(cluster)
            }
            Source::Manifests(dir) => {
                publishing.set_off("objects come from files");
                let options = manifests::Options::default();
                Self::Manifests(manifests::spawn(dir, options, updates, cancel))
            }
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

    /// Records that every kind is listed and the policies are in force.
    pub(super) fn set_serving(&self) {
        match self {
            Self::Cluster(cluster) => {
                cluster.serves.send_if_modified(|serves| !std::mem::replace(serves, true));
            }
            Self::Manifests(_) => {}
        }
    }

    /// Asks for the namespaces of policies whose deletion waits.
    pub(super) fn ask<K: Kernel>(&self, agent: &mut Agent<K>) {
        match self {
            Self::Cluster(cluster) => {
                for question in agent.namespace_questions() {
                    if let Err(error) = cluster.questions.try_send(question) {
                        agent.answer_namespace(error.into_inner(), NamespaceAnswer::Unknown);
                    }
                }
            }
            // All kinds are read together.
            Self::Manifests(_) => {}
        }
    }

    /// Reports the diagnostics of an object as a Kubernetes Event, for the author of the object.
    pub(super) fn report<K: Kernel>(&self, agent: &mut Agent<K>, object: ObjectRef, now: Instant) {
        match self {
            Self::Cluster(cluster) => {
                let uid = match object.kind {
                    Kind::NetworkPolicy => {
                        agent.state().policy(&object.name).map(|policy| Arc::clone(&policy.uid))
                    }
                    Kind::ClusterNetworkPolicy => {
                        let policy = agent.state().cluster_policy(&object.name.name);
                        policy.map(|policy| Arc::clone(&policy.uid))
                    }
                    Kind::Pod => agent.state().pod(&object.name).map(|pod| Arc::clone(&pod.uid)),
                    Kind::Namespace | Kind::Service | Kind::Node => None,
                };
                let diagnostics = agent.diagnostics().of(&object).into_iter().cloned().collect();
                let rank = agent.rank(&object, now);
                let uid = uid.unwrap_or_else(|| Arc::from(""));
                let report = Report { object, uid, diagnostics, rank };
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
    /// Namespaces of policies whose deletion waits.
    questions: mpsc::Sender<NamespaceQuestion>,
    /// Diagnostics to be reported as Events.
    reports: mpsc::Sender<Report>,
    /// Whether the agent serves.
    serves: watch::Sender<bool>,
    /// Held: the tasks end with it.
    tasks: JoinSet<()>,
}

impl Cluster {
    /// Starts the watches, the look-up of single pods and the reports.
    fn start(
        access: Access,
        (node, options): (Option<Arc<str>>, Options),
        servers: PathBuf,
        updates: &mpsc::Sender<SourceUpdate>,
        namespaces: &mpsc::Sender<(NamespaceQuestion, NamespaceAnswer)>,
        cancel: &CancellationToken,
    ) -> Self {
        let mut tasks = netpol_kube::spawn(&access, &options, updates, cancel);
        let (look_ups, asked) = mpsc::channel(QUEUE);
        tasks.spawn(look_up(access.clone(), asked, updates.clone()));
        let (questions, questioned) = mpsc::channel(QUEUE);
        tasks.spawn(known_servers::follow(access.clone(), servers));
        tasks.spawn(answer(access.clone(), questioned, namespaces.clone()));
        let (reports, reported) = mpsc::channel(QUEUE);
        let node = node.unwrap_or_else(|| Arc::from("netpol-agent"));
        tasks.spawn(netpol_kube::report(access, node, reported, cancel.clone()));
        Self { look_ups, questions, reports, serves: watch::Sender::new(false), tasks }
    }

    /// Reports which ClusterNetworkPolicies are in force here, and writes their conditions if elected.
    fn report_in_force(&mut self, access: Access, node: Arc<str>, task: &PublishingTask) {
        let in_force = task.in_force.clone();
        self.tasks.spawn(policy_status::run(access, node, in_force, Periods::default()));
    }

    /// Publishes addresses of this node's pods, and follows those of other nodes.
    fn publish(
        &mut self,
        access: Access,
        node: Arc<str>,
        task: PublishingTask,
        updates: &mpsc::Sender<SourceUpdate>,
    ) {
        let options = Options::default();
        self.tasks.spawn(publisher::run(access, node, options, task, updates.clone()));
    }

    /// Follows the backends of Services that have no selector.
    fn follow_backends(&mut self, access: Access, updates: &mpsc::Sender<SourceUpdate>) {
        let options = Options::default();
        self.tasks.spawn(netpol_kube::follow_backends(access, options, updates.clone()));
    }

    /// Answers the observer, on connections that the agent opens.
    fn answer_observer(&mut self, access: Access, Observed { token, route }: Observed) {
        let settings = dial::Settings { access, namespace: NAMESPACE.to_owned(), token };
        self.tasks.spawn(dial::serve(settings, move || service(&route)));
    }

    /// Removes the start-up taint once the agent serves.
    fn remove_taint(&mut self, access: Access, node: Arc<str>, taint: String) {
        let serves = self.serves.subscribe();
        self.tasks.spawn(startup_taint::remove(access, node, taint, serves));
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

/// Asks the API server for one namespace after the other.
async fn answer(
    access: Access,
    mut questions: mpsc::Receiver<NamespaceQuestion>,
    answers: mpsc::Sender<(NamespaceQuestion, NamespaceAnswer)>,
) {
    while let Some(question) = questions.recv().await {
        let answer = match netpol_kube::namespace(&access.client(), &question.namespace).await {
            Ok(Some(namespace)) => NamespaceAnswer::Exists(namespace),
            Ok(None) => NamespaceAnswer::Gone,
            Err(error) => {
                let namespace = &*question.namespace;
                warn!(
                    namespace,
                    %error, "deleted policies stay in force: the namespace is not known"
                );
                sleep(PAUSE).await;
                NamespaceAnswer::Unknown
            }
        };
        if answers.send((question, answer)).await.is_err() {
            return;
        }
    }
}
