//! `netpol-agent run`: the edges around the event loop.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use netpol_common::ids::IfIndex;
use rustix::fs::FlockOperation;
use rustix::net::{AddressFamily, SocketType, netdevice};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::drops::DropLog;
use super::handle::Question;
use super::search::Searches;
use super::worker::Worker;
use super::{Agent, Handle, Registry, routes};
use crate::cni_server::{self, Call};
use crate::control::{serve_tcp, serve_unix};
use crate::discovery::{Found, Places};
use crate::manifests::watch as manifests;
use netpol_datapath::{Datapath, Trace};
use netpol_policy::dataplane::port::Kernel;

use netpol_datapath::netlink::{self, Devices};
use netpol_policy::model::Kind;
use netpol_policy::model::{ObjectName, ObjectRef};
use netpol_policy::source::SourceUpdate;

/// Source updates that wait for the event loop; a source that is faster waits.
const QUEUE: usize = 256;
/// Source updates or calls that are taken in before the maps are brought up to them: a burst costs one change.
const BATCH: usize = 64;
/// How often what failed is tried again and what waits is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Everything that `run` can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where objects come from.
    pub source: Source,
    /// The CNI plugin's socket. Its directory also holds the endpoint records.
    pub socket: PathBuf,
    /// The node on which the agent runs; `None` if nobody says.
    pub node: Option<Arc<str>>,
    /// Where pods that are older than the agent are looked for.
    pub places: Places,
    /// Programs and maps.
    pub ebpf: netpol_datapath::Config,
    /// Where health and metrics are told to everybody; `None` for nowhere.
    pub health: Option<SocketAddr>,
}

impl Config {
    /// The socket on which a running agent answers, beside the CNI plugin's.
    pub fn control_socket(&self) -> PathBuf {
        self.socket.with_file_name(CONTROL_SOCKET)
    }
}

/// File name of the socket on which a running agent answers.
pub const CONTROL_SOCKET: &str = "agent.sock";

/// File name of the endpoint records, beside the sockets.
const RECORDS: &str = "endpoints.json";

/// The files that agents keep beside the CNI plugin's socket, that one included.
pub fn state_files(socket: &Path) -> [PathBuf; 5] {
    let records = socket.with_file_name(RECORDS);
    let mut lock = socket.as_os_str().to_owned();
    lock.push(".lock");
    let unfinished = records.with_extension("new");
    [socket.to_owned(), lock.into(), socket.with_file_name(CONTROL_SOCKET), records, unfinished]
}

/// Where objects come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// An API server.
    Cluster {
        /// Explicit configuration; else in-cluster, else the default one.
        kubeconfig: Option<PathBuf>,
    },
    /// A directory of YAML files.
    Manifests(PathBuf),
}

/// Runs until SIGTERM or SIGINT. Enforcement stays when it ends.
///
/// # Errors
/// What keeps the agent from starting, in one sentence.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let control = config.control_socket();
    let Config { source, socket, node, places, ebpf, health } = config;
    let cancel = CancellationToken::new();
    // The socket is also the lock that makes this the node's only agent: before anything is touched.
    let listener = cni_server::bind(&socket)?;
    let mut kernel = Datapath::load(&ebpf)?;
    // An agent with another socket would fight over the same programs.
    let _lock = ebpf.pin_root.as_deref().map(lock).transpose()?;
    let map_state = kernel.map_state().context("reading the pinned maps of an earlier run")?;
    // The endpoints of another version are not in these maps.
    if !kernel.has_predecessor() {
        let n_entries = kernel.collect_unknown().context("sweeping the maps of an earlier run")?;
        debug!(n_entries, "what pods have left that went before is collected");
    }
    let registry = Registry::open(&socket.with_file_name(RECORDS), device_name)?;
    info!(n_endpoints = map_state.endpoints.len(), "maps ready");
    let events = kernel.events()?;
    if ebpf.trace == Trace::On {
        let messages = kernel.trace_messages()?;
        tokio::spawn(async move {
            let Err(error) = messages.forward().await;
            error!(%error, "the programs' messages are not shown any more");
        });
    }
    if node.is_none() {
        warn!(
            "the node's name is not known: pods that are older than the agent are not looked for"
        );
    }
    let agent = Agent::new(kernel, map_state, registry).on_node(node.clone());
    let (searches, found) = Searches::new(places);
    let (handle, questions) = Handle::new();
    let drops = DropLog::spawn(events, handle.clone(), cancel.clone());
    serve_unix(&control, routes::private(handle.clone(), drops), cancel.clone())?;
    if let Some(address) = health {
        serve_tcp(address, routes::public(handle), cancel.clone()).await?;
    }

    let (calls_in, calls) = mpsc::channel(QUEUE);
    let (updates_in, updates) = mpsc::channel(QUEUE);
    let (stamped_in, stamped) = mpsc::channel(QUEUE);
    tokio::spawn(stamp(updates, stamped_in));
    let (devices_in, devices) = mpsc::channel(4);
    let source = start_source(source, node, &updates_in, &cancel).await?;
    drop(updates_in);
    tokio::spawn(cni_server::serve(listener, calls_in, cancel.clone()));
    let netlink_cancel = cancel.clone();
    tokio::spawn(async move {
        if let Err(error) = netlink::watch(devices_in, netlink_cancel).await {
            error!(error = &error as &dyn std::error::Error, "the node's devices are not followed");
        }
    });
    let stop = cancel.clone();
    tokio::spawn(async move {
        if let Err(error) = wait_for_signal().await {
            error!(%error, "signals are not handled");
            return;
        }
        stop.cancel();
    });
    let inputs = Inputs { updates: stamped, calls, devices, questions, found };
    let worker = Worker::start().context("starting a thread beside the event loop")?;
    event_loop(agent, inputs, searches, &source, &worker, &cancel).await;
    info!("stopped; policies stay in force");
    Ok(())
}

/// Holds the pin root for this agent alone, as long as it lives.
///
/// # Errors
/// Another agent has it, or it cannot be opened.
pub fn lock(root: &Path) -> anyhow::Result<File> {
    let folder = File::open(root).with_context(|| format!("opening {}", root.display()))?;
    match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(folder),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(cni_server::Error::InUse { path: root.to_owned() }.into())
        }
        Err(errno) => Err(errno).with_context(|| format!("locking {}", root.display())),
    }
}

/// Notes when updates arrive, so that the time counts for which they wait for the event loop.
#[expect(clippy::disallowed_methods, reason = "the edge that tells the core what time it is")]
async fn stamp(
    mut updates: mpsc::Receiver<SourceUpdate>,
    stamped: mpsc::Sender<(Instant, SourceUpdate)>,
) {
    while let Some(update) = updates.recv().await {
        if stamped.send((Instant::now(), update)).await.is_err() {
            return;
        }
    }
}

/// What the event loop listens to.
struct Inputs<K> {
    updates: mpsc::Receiver<(Instant, SourceUpdate)>,
    calls: mpsc::Receiver<Call>,
    devices: mpsc::Receiver<Devices>,
    questions: mpsc::Receiver<Question<K>>,
    found: mpsc::Receiver<Vec<Found>>,
}

#[expect(clippy::disallowed_methods, reason = "the edge that tells the core what time it is")]
async fn event_loop<K: Kernel>(
    mut agent: Agent<K>,
    inputs: Inputs<K>,
    mut searches: Searches,
    source: &Running,
    worker: &Worker,
    cancel: &CancellationToken,
) {
    let Inputs { mut updates, mut calls, mut devices, mut questions, mut found } = inputs;
    let (migrated_in, mut migrated) = mpsc::channel(1);
    let (collected_in, mut collected) = mpsc::channel(1);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::new();
    let mut called = Vec::new();
    loop {
        let deadline = agent.next_deadline().into_iter().chain(agent.next_gc()).min();
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            n = calls.recv_many(&mut called, BATCH), if !calls.is_closed() || !calls.is_empty() => {
                if n == 0 {
                    error!("the CNI plugin is not served any more");
                }
                for call in called.drain(..) {
                    agent.call(call, Instant::now());
                }
                source.want(agent.unknown_pods());
            }
            Some(now) = devices.recv() => agent.set_devices(&now, |ifindex| device_name(ifindex).is_some()),
            n = updates.recv_many(&mut batch, BATCH), if !updates.is_closed() || !updates.is_empty() => {
                if n == 0 {
                    error!("the source of objects has ended; the last state stays in force");
                }
                for (arrived, update) in batch.drain(..) {
                    for object in agent.update(update) {
                        source.report(&agent, object);
                    }
                    agent.arrived(arrived);
                }
            }
            Some(found) = found.recv() => agent.adopt(found),
            Some((ifindex, migration)) = migrated.recv() => {
                agent.end_migration(ifindex, migration, Instant::now());
            }
            Some(map_gc) = collected.recv() => agent.end_gc(map_gc, Instant::now()),
            Some(question) = questions.recv() => question(&mut agent),
            // The arms before have nothing to do.
            _ = tick.tick() => agent.prepare(),
            () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {}
        }
        agent.sync();
        for object in agent.take_found() {
            source.report(&agent, object);
        }
        agent.expire(Instant::now());
        agent.end_step(Instant::now());
        if agent.missing().is_empty() {
            searches.look(agent.wanted(), Instant::now());
        }
        if let Some(migration) = agent.begin_migration(Instant::now()) {
            let migrated_in = migrated_in.clone();
            worker.run(move || {
                // The event loop may have ended: what is left half done, the next agent finishes.
                drop(migrated_in.blocking_send(K::run_migration(migration)));
            });
        }
        if let Some(map_gc) = agent.begin_gc(Instant::now()) {
            let collected_in = collected_in.clone();
            worker.run(move || {
                // The event loop may have ended: the next agent looks for what is left.
                drop(collected_in.blocking_send(K::run_gc(map_gc)));
            });
        }
    }
}

/// The source, as long as it runs, and the way back to it.
enum Running {
    /// An API server.
    Cluster(super::cluster::Uplink),
    /// Files: nobody to ask or to tell.
    Manifests(#[expect(dead_code, reason = "held: the task ends with it")] JoinSet<()>),
}

impl Running {
    /// Asks for pods that no watch has told. What finds no place in the queue is asked for again by the next ADD.
    fn want(&self, pods: Vec<ObjectName>) {
        match self {
            Self::Cluster(uplink) => {
                for pod in pods {
                    drop(uplink.wanted.try_send(pod));
                }
            }
            Self::Manifests(_) => drop(pods),
        }
    }

    /// Tells the people who wrote an object what is found in it, besides the log.
    fn report<K: Kernel>(&self, agent: &Agent<K>, object: ObjectRef) {
        match self {
            Self::Cluster(uplink) => {
                let uid = match object.kind {
                    Kind::NetworkPolicy => {
                        agent.state().policy(&object.name).map(|policy| Arc::clone(&policy.uid))
                    }
                    Kind::Pod => agent.state().pod(&object.name).map(|pod| Arc::clone(&pod.uid)),
                    Kind::Namespace | Kind::Service | Kind::Node => None,
                };
                let diagnostics = agent.diagnostics().of(&object).into_iter().cloned().collect();
                let report = netpol_kube::Report {
                    object,
                    uid: uid.unwrap_or_else(|| Arc::from("")),
                    diagnostics,
                };
                if let Err(error) = uplink.reports.try_send(report) {
                    debug!(%error, "finding only logged");
                }
            }
            Self::Manifests(_) => drop(object),
        }
    }
}

async fn start_source(
    source: Source,
    node: Option<Arc<str>>,
    updates: &mpsc::Sender<SourceUpdate>,
    cancel: &CancellationToken,
) -> anyhow::Result<Running> {
    Ok(match source {
        Source::Cluster { kubeconfig } => Running::Cluster(
            super::cluster::Uplink::open(kubeconfig.as_deref(), node, updates, cancel).await?,
        ),
        Source::Manifests(dir) => Running::Manifests(manifests::spawn(
            dir,
            manifests::Options::default(),
            updates,
            cancel,
        )),
    })
}

async fn wait_for_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// The name of the device with this index in the agent's network namespace, if there is one.
fn device_name(ifindex: IfIndex) -> Option<String> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    netdevice::index_to_name(&socket, ifindex.0).ok()
}
