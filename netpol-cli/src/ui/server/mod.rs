//! The HTTP server of the page.
//!
//! In: requests of the browser. Out: the page, and JSON of the model. Must not: answer a request that [`guard`] refuses, read more than
//! [`MAX_BODY`] bytes of one, or let the browser keep data.

mod api;
mod assets;
mod guard;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Bytes};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::drops;
use super::worker::Worker;
use crate::live::AccessArgs;
use assets::{ASSETS, Asset, ENTRANCE};
use guard::{Guard, Origin, Refusal};

/// Most bytes of an edited text with its JSON.
const MAX_BODY: usize = 1 << 20;
/// Connections at the same time. Further ones wait.
const MAX_CONNECTIONS: usize = 32;
/// Streams of drops at the same time. Further ones are refused.
const MAX_STREAMS: usize = 4;
/// Time for a client to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a client to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the page may load and do: files of this server only, no script or style in its text.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers of every response.
const HEADERS: [(HeaderName, &str); 7] = [
    (CONTENT_SECURITY_POLICY, CONTENT_POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (CACHE_CONTROL, "no-store"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The server.
pub(super) struct Server {
    shared: Arc<Shared>,
}

/// What every connection needs.
struct Shared {
    guard: Guard,
    worker: Worker,
    /// Access to the agents, if there are some.
    drops: Option<AccessArgs>,
    streams: Arc<Semaphore>,
}

impl Server {
    /// A server at this address, with new secrets.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub(super) fn new(
        address: SocketAddr,
        worker: Worker,
        drops: Option<AccessArgs>,
    ) -> anyhow::Result<Self> {
        let streams = Arc::new(Semaphore::new(MAX_STREAMS));
        let shared = Shared { guard: Guard::new(address)?, worker, drops, streams };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The address to open.
    pub(super) fn url(&self) -> String {
        self.shared.guard.url()
    }

    /// Accepts connections, without end.
    pub(super) async fn serve(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let place = Arc::clone(&places).acquire_owned().await.ok();
            match listener.accept().await {
                Ok((stream, _)) => {
                    drop(tokio::spawn(converse(stream, Arc::clone(&self.shared), place)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }
}

async fn converse(stream: TcpStream, shared: Arc<Shared>, _place: Option<OwnedSemaphorePermit>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(respond(&shared, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    // A browser that closes a connection early needs nothing more.
    drop(connection.await);
}

/// The answer to a request.
async fn respond<B>(shared: &Shared, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let mut answer = answer(shared, request).await.unwrap_or_else(|refusal| {
        let (status, message) = refusal.in_words();
        text(status, message)
    });
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

async fn answer<B>(shared: &Shared, request: Request<B>) -> Result<Answer, Refusal>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let (head, body) = request.into_parts();
    let Shared { guard, worker, drops, streams } = shared;
    guard.check_host(&head.headers)?;
    if let (&Method::GET, "/", Some(token)) = (&head.method, head.uri.path(), token(&head.uri)) {
        let cookie = guard.exchange(token)?;
        let mut entrance = asset(&ENTRANCE);
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            entrance.headers_mut().insert(SET_COOKIE, cookie);
        }
        return Ok(entrance);
    }
    let is_post = head.method == Method::POST;
    let origin = if is_post { Origin::Required } else { Origin::Optional };
    guard.check_origin(&head.headers, origin)?;
    guard.check_session(&head.headers)?;
    let path = head.uri.path();
    let needed = if path == api::WHAT_IF { Method::POST } else { Method::GET };
    if head.method != needed {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "this method is not supported");
        let allowed = if needed == Method::POST { "POST" } else { "GET" };
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return Ok(refused);
    }
    if path == "/api/drops" {
        return Ok(match (drops, Arc::clone(streams).try_acquire_owned()) {
            (None, _) => text(StatusCode::NOT_FOUND, "files have no drops"),
            (Some(_), Err(_)) => text(StatusCode::TOO_MANY_REQUESTS, "too many pages show drops"),
            (Some(access), Ok(place)) => {
                with_type("text/event-stream", drops::stream(access.clone(), place))
            }
        });
    }
    if let Some(found) = ASSETS.iter().find(|asset| asset.path == path) {
        return Ok(asset(found));
    }
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect());
    let Ok(Ok(read)) = read.await else {
        let message = "the text is too large, or was not sent completely";
        return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, message));
    };
    let answered = api::answer(worker, &head.uri, &read.to_bytes()).await;
    Ok(match answered {
        Ok(Some(json)) => {
            with_type("application/json", Full::new(Bytes::from(json)).boxed_unsync())
        }
        Ok(None) => text(StatusCode::NOT_FOUND, "there is no such page"),
        Err(problem) => text(StatusCode::BAD_REQUEST, &format!("{problem:#}")),
    })
}

/// The token in a query.
fn token(uri: &Uri) -> Option<&str> {
    uri.query()?.strip_prefix("token=")
}

fn with_type(content_type: &'static str, body: UnsyncBoxBody<Bytes, Infallible>) -> Answer {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn asset(asset: &Asset) -> Answer {
    with_type(
        asset.content_type,
        Full::new(Bytes::from_static(asset.text.as_bytes())).boxed_unsync(),
    )
}

fn text(status: StatusCode, message: &str) -> Answer {
    let body = Full::new(Bytes::from(format!("{message}\n"))).boxed_unsync();
    let mut answer = with_type("text/plain; charset=utf-8", body);
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests;
