//! The server: the control socket, and HTTP for it and for TCP. The paths are those of the given [`Route`].

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::telemetry;

/// Time for a client to send the head of a request.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed `accept`, so that a lack of file descriptors does not cause a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections of the control socket at the same time. Further ones wait.
const MAX_CONNECTIONS: usize = 32;

/// An answer to a request.
pub enum Answer {
    /// 200 with a JSON document.
    Json(String),
    /// 200 with text of this content type.
    Text(&'static str, String),
    /// 200 with lines, each sent when it is ready.
    Lines(BoxStream<'static, String>),
    /// Another status with a message.
    Refused(StatusCode, String),
}

/// Answers a GET of this path and query.
pub type Route = Arc<dyn Fn(Uri) -> BoxFuture<'static, Answer> + Send + Sync>;

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path}")]
pub struct Error {
    /// The socket.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// Serves on a Unix socket, and replaces a stale one. Only root can connect, because of the directory's mode.
///
/// # Errors
/// The socket cannot be created.
pub fn serve_unix(path: &Path, route: Route, cancel: CancellationToken) -> Result<(), Error> {
    let refused = |source| Error { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(refused)?;
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let next = async || {
            let place = Arc::clone(&places).acquire_owned().await;
            (place.ok(), listener.accept().await)
        };
        while let Some((place, accepted)) = cancel.run_until_cancelled(next()).await {
            match accepted {
                Ok((stream, _)) => drop(tokio::spawn(converse(stream, Arc::clone(&route), place))),
                Err(error) => pause(&error).await,
            }
        }
    });
    Ok(())
}

pub(super) async fn pause(error: &io::Error) {
    warn!(%error, "connection not accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Serves one connection. A follower of drops stays connected.
async fn converse(stream: UnixStream, route: Route, _place: Option<OwnedSemaphorePermit>) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service(&route))
        .await;
    if let Err(error) = served {
        debug!(%error, "connection ended early");
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The answers of a route as a service of hyper.
pub(crate) fn service(
    route: &Route,
) -> impl Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send> + use<>
{
    let route = Arc::clone(route);
    service_fn(move |request| respond(Arc::clone(&route), request))
}

async fn respond(route: Route, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let wants_open_metrics = request.headers().get_all(ACCEPT).iter().any(|accepted| {
        accepted.to_str().is_ok_and(|types| types.contains(telemetry::OPEN_METRICS))
    });
    let answer = if request.method() == Method::GET {
        route(request.uri().clone()).await
    } else {
        Answer::Refused(StatusCode::METHOD_NOT_ALLOWED, "only GET is supported".to_owned())
    };
    let full = |text: String| Full::new(Bytes::from(text)).boxed_unsync();
    let (status, content_type, body) = match answer {
        Answer::Json(text) => (StatusCode::OK, "application/json", full(text)),
        Answer::Text(telemetry::CONTENT_TYPE, text) if !wants_open_metrics => {
            (StatusCode::OK, telemetry::PLAIN_CONTENT_TYPE, full(telemetry::plain(&text)))
        }
        Answer::Text(content_type, text) => (StatusCode::OK, content_type, full(text)),
        Answer::Refused(status, text) => (status, "text/plain; charset=utf-8", full(text + "\n")),
        Answer::Lines(lines) => {
            use futures::StreamExt as _;
            let frames = lines.map(|line| Ok(Frame::data(Bytes::from(line + "\n"))));
            (StatusCode::OK, "application/x-ndjson", StreamBody::new(frames).boxed_unsync())
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    Ok(response)
}
