//! The server: sockets and HTTP. The paths are those of the given [`Route`].

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Time for a client to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed `accept`, so that a lack of file descriptors does not cause a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
pub enum Error {
    /// The Unix socket cannot be created.
    #[error("cannot listen on {path}")]
    Unix {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The TCP address cannot be bound.
    #[error("cannot listen on {address} for health and metrics")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Serves on a Unix socket, and replaces a stale one. Only root can connect, because of the directory's mode.
///
/// # Errors
/// The socket cannot be created.
pub fn serve_unix(path: &Path, route: Route, cancel: CancellationToken) -> Result<(), Error> {
    let refused = |source| Error::Unix { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(refused)?;
    tokio::spawn(async move {
        while let Some(accepted) = cancel.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => spawn_connection(stream, &route),
                Err(error) => pause(&error).await,
            }
        }
    });
    Ok(())
}

/// Serves on a TCP address. Returns the bound address.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve_tcp(
    address: SocketAddr,
    route: Route,
    cancel: CancellationToken,
) -> Result<SocketAddr, Error> {
    let refused = |source| Error::Tcp { address, source };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    tokio::spawn(async move {
        while let Some(accepted) = cancel.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => spawn_connection(stream, &route),
                Err(error) => pause(&error).await,
            }
        }
    });
    Ok(bound)
}

async fn pause(error: &io::Error) {
    warn!(%error, "connection not accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

fn spawn_connection(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, route: &Route) {
    let route = Arc::clone(route);
    tokio::spawn(async move {
        let service = service_fn(move |request| respond(Arc::clone(&route), request));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            debug!(%error, "connection ended early");
        }
    });
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn respond(route: Route, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let answer = if request.method() == Method::GET {
        route(request.uri().clone()).await
    } else {
        Answer::Refused(StatusCode::METHOD_NOT_ALLOWED, "only GET is supported".to_owned())
    };
    let full = |text: String| Full::new(Bytes::from(text)).boxed_unsync();
    let (status, content_type, body) = match answer {
        Answer::Json(text) => (StatusCode::OK, "application/json", full(text)),
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
