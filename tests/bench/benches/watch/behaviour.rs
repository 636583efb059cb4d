//! What an API server may do, and what becomes of it with `netpol_kube`, with kube-runtime's `watcher` as it is, and with the
//! recovery round it that netpol needs.

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

use super::runtime::{Care, follow};
use super::trimmed::{Guarded, Plain, Pod};

/// What has not happened by then is said not to happen.
const LIMIT: Duration = Duration::from_secs(3);

/// A list that is silent for so long has failed.
const LIST_PATIENCE: Duration = Duration::from_millis(300);

/// Who watches the pods.
#[derive(Clone, Copy, Debug)]
enum Candidate {
    Netpol,
    Watcher,
    WatcherWithRecovery,
}

/// What the server does.
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
    (Trouble::Refused, "a streaming list is refused by a status: listed"),
    (Trouble::RefusedByEvent, "a streaming list is refused by an ERROR event: listed"),
    (Trouble::Ignored, "a server does not know streaming lists: listed"),
    (Trouble::Gone, "a version is gone, HTTP 410: listed again"),
    (Trouble::Garbled, "a line is no event: listed again"),
    (Trouble::DeletedWhileListed, "a pod is deleted while a list is streamed: gone"),
    (Trouble::Unreadable, "a pod cannot be read: the others are there; what is said of it"),
];

/// Prints a table.
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

/// Lets a candidate watch a server that makes trouble.
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
    match trouble {
        Trouble::Refused | Trouble::RefusedByEvent | Trouble::Ignored => {}
        Trouble::Gone => {
            api.stop();
            api.put(pod("shop", "new", "10.0.0.3"));
            api.compact();
            api.start_again()?;
            return Ok(yes_or_no(watched.until(|w| w.pod("new")).await));
        }
        Trouble::Garbled => {
            // Only a new list shows that it is gone.
            api.lose(Kind::Pod, "shop", "web");
            api.inject_line(Kind::Pod, "<html>");
            return Ok(yes_or_no(watched.until(|w| !w.pod("web")).await));
        }
        Trouble::DeletedWhileListed => {
            return Ok(yes_or_no(watched.until(|w| !w.pod("web")).await));
        }
        Trouble::Unreadable => {
            let found = watched.diagnostics.iter().next().map(ToString::to_string);
            return Ok(format!("{}: {}", yes_or_no(is_listed), found.unwrap_or_default()));
        }
    }
    Ok(yes_or_no(is_listed))
}

#[expect(clippy::fn_params_excessive_bools, reason = "the value to print")]
fn yes(holds: bool) -> String {
    if holds { "yes" } else { "no" }.to_owned()
}

/// What a candidate has reported.
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
                let care = Care::Backoff;
                let pods = follow::<DeserializeGuard<Plain<Pod>>>(Kind::Pod, client, care, out);
                JoinSet::from_iter([pods])
            }
            Candidate::WatcherWithRecovery => {
                let care = Care::Recovery { list_patience: LIST_PATIENCE };
                JoinSet::from_iter([follow::<Guarded<Pod>>(Kind::Pod, client, care, out)])
            }
        };
        let (state, diagnostics) = (ClusterState::default(), DiagnosticIndex::default());
        Ok(Self { state, diagnostics, updates, _tasks: tasks })
    }

    /// Takes what is reported until the condition holds. Whether it does in time.
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
