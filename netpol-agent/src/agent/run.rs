//! `netpol-agent run`: wires the event loop to the kernel, the sources, the CNI plugin and the control socket.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use netpol_datapath::netfilter::{self, Depth};
use netpol_datapath::netlink::{self, RoutesOf};
use netpol_datapath::{Datapath, Trace};
use netpol_policy::dataplane::MapState;
use netpol_policy::dataplane::port::{Attachments as _, Maps as _};
use rustix::fs::FlockOperation;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::answers::drops::DropLog;
use super::answers::handle::Handle;
use super::answers::routes;
use super::backlog::Backlog;
use super::config::{Config, LAST_HEARD, RECORDS, SERVERS, Source, UNIDENTIFIED};
use super::endpoints::search::Searches;
use super::event_loop::{self, Inputs, NodeWatch, device_name};
use super::object_source::{ObjectSource, Observed, Tasks};
use super::state::Agent;
use super::state::held_policies::Asking;
use super::state::last_heard::LastHeard;
use super::state::publishing::Publishing;
use super::state::registry::Registry;
use super::state::short_cuts::ShortCut;
use super::state::unidentified::Unidentified;
use super::unable::{self, Edges};
use super::upkeep::worker::Worker;
use crate::cni_server;
use crate::control::{ListenAddress, serve_unix, tcp};
use crate::denial;
use crate::discovery;

/// Calls and changes on the node that may wait for the event loop.
const QUEUE: usize = 256;

/// Runs until SIGTERM or SIGINT. Policies stay in force after that.
///
/// # Errors
/// The agent cannot start: another one runs, the kernel refuses the programs, or a file or socket cannot be opened.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let control = config.control_socket();
    let Config {
        source,
        socket,
        node,
        search_paths,
        datapath,
        pod_tunnels,
        tunnel_ports,
        short_cut,
        own_node_egress,
        health,
        metrics,
        observer_token,
    } = config;
    let cancel = CancellationToken::new();
    // First of all: the lock of the socket makes this the only agent of the node.
    let listener = cni_server::bind(&socket)?;
    tokio::spawn(end_at_signal(cancel.clone()));
    let mut kernel = match Datapath::load(&datapath) {
        Ok(kernel) => kernel,
        Err(error) => {
            let error = denial::explain(error.into());
            let Some((kubeconfig, node)) = of_cluster(source, node) else { return Err(error) };
            let edges = Edges { listener, control, health, metrics, node, kubeconfig };
            return unable::say(error, edges, &cancel).await;
        }
    };
    // An agent with another socket and the same pins would replace the programs of this one.
    let _lock = datapath.pin_root.as_deref().map(lock).transpose()?;
    let map_state = restore(&mut kernel)?;
    let registry = Registry::open(&socket.with_file_name(RECORDS), device_name)?;
    info!(n_endpoints = map_state.endpoints.len(), "maps ready");
    let events = kernel.events()?;
    if datapath.trace == Trace::On {
        forward_trace(&mut kernel)?;
    }
    if node.is_none() {
        warn!("node name not set: pods that are older than the agent are not searched for");
    }
    let (publishing, publishing_task) = Publishing::new();
    let agent = Agent::new(kernel, map_state, registry)
        .on_node(node.clone())
        .publishing(publishing)
        .with_tunnels(pod_tunnels, tunnel_ports)
        .with_short_cut(short_cut)
        .with_own_node_egress(own_node_egress)
        .remembering(LastHeard::open(socket.with_file_name(LAST_HEARD)))
        .unblocking(Unidentified::open(socket.with_file_name(UNIDENTIFIED)))
        .asking(asking(&source));
    let results = discovery::watch_results(search_paths.results.clone(), cancel.clone());
    let (searches, found) = Searches::new(search_paths);
    let (handle, questions) = Handle::new();
    let drops = DropLog::spawn(events, handle.clone(), cancel.clone());
    let observed = observer_token.map(|token| Observed::new(token, &handle, &drops));
    serve_unix(&control, routes::private(handle.clone(), drops), cancel.clone())?;
    serve_tcp([health, metrics], &handle, &cancel)?;

    let (calls_in, calls) = mpsc::channel(QUEUE);
    let (updates_in, updates) = mpsc::channel(1);
    let backlog = Backlog::of(updates);
    let (namespaces_in, namespaces) = mpsc::channel(QUEUE);
    let servers = socket.with_file_name(SERVERS);
    let source = ObjectSource::start(
        source,
        node,
        servers,
        Tasks { publishing: publishing_task, own_node_egress, short_cut, observed },
        &updates_in,
        &namespaces_in,
        &cancel,
    )
    .await?;
    drop((updates_in, namespaces_in));
    tokio::spawn(cni_server::serve(listener, calls_in, cancel.clone()));
    let node = watch_node(short_cut, &cancel)?;
    let inputs = Inputs { updates: backlog, calls, node, questions, namespaces, found, results };
    let worker = Worker::start().context("starting the worker thread")?;
    Box::pin(event_loop::run(agent, inputs, searches, &source, &worker, &cancel)).await;
    info!("stopped; policies stay in force");
    Ok(())
}

/// Whether this source can be asked for a namespace.
const fn asking(source: &Source) -> Asking {
    match source {
        Source::Cluster { .. } => Asking::Possible,
        Source::Manifests(_) => Asking::Needless,
    }
}

/// The kubeconfig and the node of an agent in a cluster.
fn of_cluster(source: Source, node: Option<Arc<str>>) -> Option<(Option<PathBuf>, Arc<str>)> {
    let Source::Cluster { kubeconfig, startup_taint: _, publish_addresses: _ } = source else {
        return None;
    };
    Some((kubeconfig, node?))
}

/// Shows the trace messages of the programs in the log.
fn forward_trace(kernel: &mut Datapath) -> anyhow::Result<()> {
    let messages = kernel.trace_messages()?;
    tokio::spawn(async move {
        let Err(error) = messages.forward().await;
        error!(%error, "trace messages of the programs not shown any more");
    });
    Ok(())
}

/// Serves health and metrics at their addresses, if they have any.
fn serve_tcp(
    [health, metrics]: [Option<ListenAddress>; 2],
    handle: &Handle<Datapath>,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    if let Some(address) = health {
        tcp::serve(address, &routes::health(handle.clone()), cancel)?;
    }
    if let Some(address) = metrics {
        tcp::serve(address, &routes::metrics(handle.clone()), cancel)?;
    }
    Ok(())
}

/// Watches the node's devices, the clsact filters on them, and the netfilter rules of others.
fn watch_node(short_cut: ShortCut, cancel: &CancellationToken) -> anyhow::Result<NodeWatch> {
    let (netfilter_in, netfilter) = mpsc::channel(1);
    // Without the short cut it does not matter what their rules do.
    let depth = match short_cut {
        ShortCut::Off => Depth::Engines,
        ShortCut::On | ShortCut::Nodes => Depth::Rules,
    };
    netfilter::watch(depth, netfilter_in)
        .context("starting the thread that reads netfilter rules")?;
    let (devices_in, devices) = mpsc::channel(QUEUE);
    let (filters_in, filters) = mpsc::channel(QUEUE);
    let routes = match short_cut {
        ShortCut::Off | ShortCut::On => RoutesOf::Tunnels,
        ShortCut::Nodes => RoutesOf::Gateways,
    };
    let of_devices = cancel.clone();
    tokio::spawn(async move {
        if let Err(error) = netlink::watch(routes, devices_in, of_devices).await {
            error!(error = &error as &dyn std::error::Error, "devices not watched any more");
        }
    });
    let of_filters = cancel.clone();
    tokio::spawn(async move {
        if let Err(error) = netlink::watch_filters(filters_in, of_filters).await {
            let error = &error as &dyn std::error::Error;
            error!(error, "removed filters are noticed within a second only");
        }
    });
    Ok(NodeWatch { devices, filters, netfilter })
}

/// Locks the pin root for one agent, until the file is dropped.
///
/// # Errors
/// Another agent holds the lock, or the folder cannot be opened.
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

pub(crate) async fn end_at_signal(cancel: CancellationToken) {
    match wait_for_signal().await {
        Ok(()) => cancel.cancel(),
        Err(error) => error!(%error, "signals not handled"),
    }
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

/// The content of the maps that an earlier run has left, without the leftovers of endpoints that are gone.
fn restore(kernel: &mut Datapath) -> anyhow::Result<MapState> {
    let map_state = kernel.map_state().context("reading the pinned maps of an earlier run")?;
    // The endpoints of another version are not in these maps, so all their entries would be collected.
    if !kernel.has_predecessor() {
        let collected = kernel.collect_unknown();
        let n_entries = collected.context("collecting garbage in the maps of an earlier run")?;
        debug!(n_entries, "entries of removed endpoints collected");
    }
    Ok(map_state)
}
