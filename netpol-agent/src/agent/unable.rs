//! A node of a cluster that cannot run the programs: the agent says so until it is started again, instead of ending at once.
//!
//! In: why the programs cannot be loaded. Out: the reason as an Event on the Node and as the answer to the plugin, to
//! `netpol-agent status` and to `/readyz`; the metrics `netpol_in_force`, which is 0, and `netpol_build_info`.
//! Must not: change anything in the kernel.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use hyper::StatusCode;
use netpol_kube::{Access, Report};
use netpol_policy::model::{Code, Diagnostic, Kind, ObjectName, ObjectRef};
use netpol_proto::{ErrorCode, Request, Response};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::answers::metrics::not_in_force;
use crate::cni_server::{self, Call, Listener};
use crate::control::{Answer, ListenAddress, Route, serve_unix, tcp};
use crate::own_process::OwnProcess;
use crate::telemetry;

/// How long the agent waits before it ends with the error, so that it is started again and tries again.
const RETRY: Duration = Duration::from_mins(5);

/// How the agent is reached, and what it knows of its cluster.
pub(super) struct Edges {
    /// The socket for the plugin.
    pub(super) listener: Listener,
    /// The control socket.
    pub(super) control: PathBuf,
    /// The address for health.
    pub(super) health: Option<ListenAddress>,
    /// The address for metrics.
    pub(super) metrics: Option<ListenAddress>,
    /// The node's name.
    pub(super) node: Arc<str>,
    /// The kubeconfig file, if not the usual one.
    pub(super) kubeconfig: Option<PathBuf>,
}

/// Says why this node cannot run the programs, until `cancel` is cancelled or it is time to try again.
///
/// # Errors
/// The reason, after [`RETRY`].
pub(super) async fn say(
    reason: anyhow::Error,
    edges: Edges,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let Edges { listener, control, health, metrics, node, kubeconfig } = edges;
    let text: Arc<str> = Arc::from(format!("this node cannot enforce policies: {reason:#}"));
    error!(reason = %text, "pods of this node start without policies unless netpol-cni is configured");
    let route = answers(Arc::clone(&text));
    serve_unix(&control, Arc::clone(&route), cancel.clone())?;
    for address in [health, metrics].into_iter().flatten() {
        tcp::serve(address, &route, cancel)?;
    }
    let (calls_in, calls) = mpsc::channel(1);
    tokio::spawn(cni_server::serve(listener, calls_in, cancel.clone()));
    tokio::spawn(refuse(calls, Arc::clone(&text)));
    let reported = CancellationToken::new();
    let _end = reported.clone().drop_guard();
    if let Err(error) = report(&text, node, kubeconfig.as_deref(), reported).await {
        warn!(%error, "no Event on the Node");
    }
    match cancel.run_until_cancelled(tokio::time::sleep(RETRY)).await {
        Some(()) => Err(reason),
        None => Ok(()),
    }
}

/// The answers of the control socket and of the health address. The agent is alive, and not ready.
fn answers(reason: Arc<str>) -> Route {
    Arc::new(move |uri| {
        let reason = reason.to_string();
        async move {
            match uri.path() {
                "/livez" => Answer::Text("text/plain; charset=utf-8", "ok\n".to_owned()),
                "/metrics" => match telemetry::render(not_in_force(), OwnProcess::read()) {
                    Ok(text) => Answer::Text(telemetry::CONTENT_TYPE, text),
                    Err(_) => Answer::Refused(StatusCode::INTERNAL_SERVER_ERROR, reason),
                },
                _ => Answer::Refused(StatusCode::SERVICE_UNAVAILABLE, reason),
            }
        }
        .boxed()
    })
}

/// Answers the plugin. What ends must be able to end: the kernel's maps are cleaned by an agent that can load the programs.
async fn refuse(mut calls: mpsc::Receiver<Call>, reason: Arc<str>) {
    while let Some(Call { request, reply }) = calls.recv().await {
        let response = match request {
            Request::Del(_) | Request::Gc(_) => Response::Ok,
            Request::Add(_) => Response::error(ErrorCode::TRY_AGAIN_LATER, &*reason),
            Request::Check(_) => Response::error(ErrorCode::CHECK_FAILED, &*reason),
            Request::Status => Response::error(ErrorCode::NOT_AVAILABLE, &*reason),
        };
        // The plugin may have disconnected.
        drop(reply.send(response));
    }
}

/// Writes the Event, and again while it stands, until `cancel` is cancelled.
async fn report(
    reason: &str,
    node: Arc<str>,
    kubeconfig: Option<&Path>,
    cancel: CancellationToken,
) -> Result<(), netpol_kube::Error> {
    let access = Access::open(kubeconfig).await?;
    let object = ObjectRef { kind: Kind::Node, name: ObjectName::new("", &node) };
    let diagnostic = Diagnostic {
        code: Code::NodeUnable,
        object: object.clone(),
        field: String::new(),
        message: reason.to_owned(),
    };
    let (reports, reported) = mpsc::channel(1);
    let report = Report { object, uid: Arc::from(""), diagnostics: vec![diagnostic], rank: 0 };
    // The queue is empty, and its receiver exists.
    drop(reports.send(report).await);
    tokio::spawn(async move {
        netpol_kube::report(access, node, reported, cancel).await;
        drop(reports);
    });
    Ok(())
}
