//! How netpol-kube, kube-runtime's `watcher`, and the watcher with the recovery that netpol needs handle what an API server may do.

use std::time::Duration;

use anyhow::Result;
use kube::core::DeserializeGuard;
use netpol_kube::{Access, Options, spawn};
use netpol_lab::fake_api::{FakeApi, GoneAs, StreamingLists};
use netpol_lab::watched::{filled, pod};
use netpol_policy::model::{Kind, ObjectName};
use netpol_policy::source::{DiagnosticIndex, SourceUpdate};
use netpol_policy::store::ClusterState;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::runtime::{Recovery, watch_pods};
use super::trimmed::{NoGuard, Pod, TextGuard};

/// An effect that has not been observed by then counts as absent.
const LIMIT: Duration = Duration::from_secs(3);

/// A list on which nothing arrives for this long has failed.
const LIST_PATIENCE: Duration = Duration::from_millis(300);

/// A client that watches the pods.
#[derive(Clone, Copy, Debug)]
enum Candidate {
    Netpol,
    Watcher,
    WatcherWithRecovery,
}

/// What the API server does.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Refused,
    RefusedByEvent,
    Ignored,
    Gone,
    Garbled,
    DeletedWhileListed,
    Unreadable,
}

const TROUBLES: [(Trouble, &str); 7] = [
    (Trouble::Refused, "streaming list refused by an HTTP status: listed"),
    (Trouble::RefusedByEvent, "streaming list refused by an ERROR event: listed"),
    (Trouble::Ignored, "server without streaming lists: listed"),
    (Trouble::Gone, "version too old, by HTTP 410: listed again"),
    (Trouble::Garbled, "line that is not an event: listed again"),
    (Trouble::DeletedWhileListed, "pod deleted while the list is streamed: removed"),
    (Trouble::Unreadable, "undecodable pod in the list: others listed; diagnostic"),
];

/// Prints a table of all troubles and candidates.
#[tokio::main]
#[expect(clippy::print_stdout, reason = "for a person")]
pub(crate) async fn report() -> Result<()> {
    println!("| | netpol_kube | watcher | watcher with recovery |\n|---|---|---|---|");
    for (trouble, what) in TROUBLES {
        let mut cells = Vec::new();
        for candidate in [Candidate::Netpol, Candidate::Watcher, Candidate::WatcherWithRecovery] {
            cells.push(outcome(candidate, trouble).await?);
        }
        println!("| {what} | {} |", cells.join(" | "));
    }
    Ok(())
}

/// Runs a candidate against a server with one trouble.
async fn outcome(candidate: Candidate, trouble: Trouble) -> Result<String> {
    let api = filled().await;
    match trouble {
        Trouble::Refused => api.streaming_lists(StreamingLists::Refused),
        Trouble::RefusedByEvent => api.streaming_lists(StreamingLists::RefusedByEvent),
        Trouble::Ignored => api.streaming_lists(StreamingLists::Ignored),
        Trouble::Gone => api.gone_as(GoneAs::Status),
        Trouble::DeletedWhileListed => api.delete_while_listed(Kind::Pod, "shop", "web"),
        Trouble::Unreadable => {
            let mut bad = pod("shop", "bad", "10.0.0.9");
            *bad.pointer_mut("/spec/containers").unwrap_or(&mut json!(null)) = json!("none");
            api.put(bad);
        }
        Trouble::Garbled => {}
    }
    let mut watched = Watched::begin(candidate, &api).await?;
    let is_listed = watched.until(|w| w.pod("db")).await;
    let has_effect = match trouble {
        Trouble::Refused | Trouble::RefusedByEvent | Trouble::Ignored | Trouble::Unreadable => {
            is_listed
        }
        Trouble::Gone => {
            api.stop();
            api.put(pod("shop", "new", "10.0.0.3"));
            api.compact();
            api.start_again()?;
            watched.until(|w| w.pod("new")).await
        }
        Trouble::Garbled => {
            // No event reports the removal, so only a new list shows it.
            api.lose(Kind::Pod, "shop", "web");
            api.inject_line(Kind::Pod, "<html>");
            watched.until(|w| !w.pod("web")).await
        }
        Trouble::DeletedWhileListed => watched.until(|w| !w.pod("web")).await,
    };
    let effect = if has_effect { "yes" } else { "no" }.to_owned();
    let diagnostics = watched.diagnostics.iter().map(ToString::to_string);
    Ok([effect].into_iter().chain(diagnostics).collect::<Vec<_>>().join("; "))
}

/// The updates of a candidate, applied to a store.
struct Watched {
    state: ClusterState,
    diagnostics: DiagnosticIndex,
    updates: mpsc::Receiver<SourceUpdate>,
    _tasks: JoinSet<()>,
}

impl Watched {
    async fn begin(candidate: Candidate, api: &FakeApi) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, api.kubeconfig(&json!({})))?;
        let access = Access::open(Some(&kubeconfig)).await?;
        let (out, updates) = mpsc::channel(64);
        let client = access.client();
        let tasks = match candidate {
            Candidate::Netpol => {
                let options = Options {
                    max_retry: Duration::from_millis(100),
                    streaming_patience: LIST_PATIENCE,
                    ..Options::default()
                };
                spawn(&access, &options, &out, &CancellationToken::new())
            }
            Candidate::Watcher => {
                let recovery = Recovery::Delay;
                let pods = watch_pods::<DeserializeGuard<Pod<NoGuard>>>(client, recovery, out);
                JoinSet::from_iter([pods])
            }
            Candidate::WatcherWithRecovery => {
                let recovery = Recovery::NewList { list_patience: LIST_PATIENCE };
                JoinSet::from_iter([watch_pods::<Pod<TextGuard>>(client, recovery, out)])
            }
        };
        let (state, diagnostics) = (ClusterState::default(), DiagnosticIndex::default());
        Ok(Self { state, diagnostics, updates, _tasks: tasks })
    }

    /// Applies updates until the condition holds. Returns whether it holds in time.
    async fn until(&mut self, holds: impl Fn(&Self) -> bool) -> bool {
        let take = async {
            while !holds(self) {
                let Some(update) = self.updates.recv().await else { return false };
                drop(self.diagnostics.apply(&update));
                for delta in update.deltas {
                    drop(self.state.apply(delta));
                }
            }
            true
        };
        timeout(LIMIT, take).await.unwrap_or(false)
    }

    fn pod(&self, name: &str) -> bool {
        self.state.pod(&ObjectName::new("shop", name)).is_some()
    }
}
