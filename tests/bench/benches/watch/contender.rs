//! One contender in a process of its own: it watches the server, and prints what that has cost.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use kube::core::DeserializeGuard;
use netpol_kube::{Access, Options, spawn};
use netpol_policy::model::{Kind, Object};
use netpol_policy::store::{ClusterState, Delta};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::runtime::{Care, follow};
use super::trimmed::{Guarded, Namespace, Node, Plain, Pod, Policy, Service};

/// The namespace of the pods that end a batch of events.
pub(crate) const FENCES: &str = "fences";

/// What watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contender {
    /// `netpol_kube`.
    Netpol,
    /// `watcher` with a guard that keeps an object's text until it is read, and knows which field is wrong.
    WatcherText,
    /// `watcher` with kube's `DeserializeGuard`.
    WatcherGuard,
    /// `watcher` without a guard: one object that cannot be read fails the list.
    WatcherPlain,
}

/// What is done with the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sink {
    /// They are dropped: all that is measured is the watch.
    Nothing,
    /// They are kept in the agent's store.
    Store,
}

/// What a process has cost since it began.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Processor time of its only thread, microseconds.
    pub(crate) cpu_us: f64,
    /// The most memory that it ever had, megabytes.
    pub(crate) peak_mb: f64,
    /// The memory that it has, megabytes.
    pub(crate) resident_mb: f64,
}

impl Cost {
    fn now() -> Result<Self> {
        // Not by `clock_gettime`, which rustix finds in the vDSO: valgrind hides that.
        let times = std::fs::read_to_string("/proc/self/schedstat")?;
        let nanoseconds: f64 = times.split(' ').next().context("no times")?.parse()?;
        let status = std::fs::read_to_string("/proc/self/status")?;
        let megabytes = |field: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kibibytes = line.and_then(|line| line.split_whitespace().next());
            let kibibytes: f64 = kibibytes.with_context(|| format!("no {field}"))?.parse()?;
            Ok(kibibytes * 1024.0 / 1e6)
        };
        let cpu_us = nanoseconds / 1e3;
        Ok(Self { cpu_us, peak_mb: megabytes("VmHWM:")?, resident_mb: megabytes("VmRSS:")? })
    }
}

macro_rules! spawn_watchers {
    ($client:expr, $out:expr, $($kind:ident: $type:ty),+) => {{
        let mut tasks = JoinSet::new();
        $( tasks.spawn(follow::<$type>(Kind::$kind, $client, Care::AGENT, $out.clone())); )+
        tasks
    }};
}

fn begin(
    contender: Contender,
    access: &Access,
    out: &mpsc::Sender<netpol_policy::source::SourceUpdate>,
) -> JoinSet<()> {
    match contender {
        Contender::Netpol => spawn(access, &Options::default(), out, &CancellationToken::new()),
        Contender::WatcherText => spawn_watchers!(
            access.client(), out,
            Pod: Guarded<Pod>, Namespace: Guarded<Namespace>, Service: Guarded<Service>, Node: Guarded<Node>,
            NetworkPolicy: Guarded<Policy>
        ),
        Contender::WatcherGuard => spawn_watchers!(
            access.client(), out,
            Pod: DeserializeGuard<Plain<Pod>>, Namespace: DeserializeGuard<Plain<Namespace>>,
            Service: DeserializeGuard<Plain<Service>>, Node: DeserializeGuard<Plain<Node>>,
            NetworkPolicy: DeserializeGuard<Plain<Policy>>
        ),
        Contender::WatcherPlain => spawn_watchers!(
            access.client(), out,
            Pod: Plain<Pod>, Namespace: Plain<Namespace>, Service: Plain<Service>, Node: Plain<Node>,
            NetworkPolicy: Plain<Policy>
        ),
    }
}

/// Watches the server of a kubeconfig. Prints the cost when the pods are listed and when each of so many fences arrives.
#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "the costs are its output")]
pub(crate) async fn watch(
    contender: Contender,
    sink: Sink,
    kubeconfig: &Path,
    mut n_fences: usize,
) -> Result<()> {
    let access = Access::open(Some(kubeconfig)).await?;
    let (out, mut updates) = mpsc::channel(64);
    let mut state = ClusterState::default();
    let _tasks = begin(contender, &access, &out);
    loop {
        let update = updates.recv().await.context("the watches ended")?;
        for delta in update.deltas {
            let is_list = matches!(&delta, Delta::Replace(list) if list.kind() == Kind::Pod);
            let is_fence =
                matches!(&delta, Delta::Upsert(Object::Pod(pod)) if &*pod.name.namespace == FENCES);
            if sink == Sink::Store {
                drop(state.apply(delta));
            }
            if is_list || is_fence {
                println!("{}", serde_json::to_string(&Cost::now()?)?);
                if is_fence {
                    n_fences -= 1;
                }
                if n_fences == 0 {
                    return Ok(());
                }
            }
        }
    }
}
