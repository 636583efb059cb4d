//! One contender in its own process: it watches the server and prints its cost.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use kube::core::DeserializeGuard;
use netpol_kube::{Access, Options, spawn};
use netpol_policy::model::{Kind, Object};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::{ClusterState, Delta};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::runtime::{Recovery, watch_pods};
use super::trimmed::{NoGuard, Pod, TextGuard};

/// Namespace of the fences: pods that mark the end of a batch of events.
pub(crate) const FENCES: &str = "fences";

/// A client that watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contender {
    /// netpol-kube. It also keeps the watches of the other four kinds, which are empty.
    Netpol,
    /// `watcher` with a guard that keeps the JSON text of a pod until it is decoded, and finds the field that is wrong.
    WatcherText,
    /// `watcher` with kube's `DeserializeGuard`.
    WatcherGuard,
    /// `watcher` without a guard: one undecodable pod fails the list.
    WatcherPlain,
}

/// Where the objects go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sink {
    /// They are dropped, so that only the watch is measured.
    Nothing,
    /// Into the agent's store.
    Store,
}

/// The cost of a process since its start.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Processor time of its only thread, microseconds.
    pub(crate) cpu_us: f64,
    /// Peak resident memory, megabytes.
    pub(crate) peak_mb: f64,
    /// Resident memory now, megabytes.
    pub(crate) resident_mb: f64,
}

impl Cost {
    fn now() -> Result<Self> {
        // Not `clock_gettime`: rustix looks for it in the vDSO, which valgrind hides.
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

fn begin(contender: Contender, access: &Access, out: mpsc::Sender<SourceUpdate>) -> JoinSet<()> {
    let (client, recovery) = (access.client(), Recovery::AGENT);
    match contender {
        Contender::Netpol => spawn(access, &Options::default(), &out, &CancellationToken::new()),
        Contender::WatcherText => {
            JoinSet::from_iter([watch_pods::<Pod<TextGuard>>(client, recovery, out)])
        }
        Contender::WatcherGuard => {
            JoinSet::from_iter([watch_pods::<DeserializeGuard<Pod<NoGuard>>>(
                client, recovery, out,
            )])
        }
        Contender::WatcherPlain => {
            JoinSet::from_iter([watch_pods::<Pod<NoGuard>>(client, recovery, out)])
        }
    }
}

/// Watches the server of a kubeconfig. Prints the cost when the pods are listed, and again at each of `n_fences` fences.
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
    let _tasks = begin(contender, &access, out);
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
