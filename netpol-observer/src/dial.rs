//! The agent's side: connections to the observer, on which the agent answers.
//!
//! In: access to the API server, which says where the observer is; a token; the answers. Out: connections, one of them idle at any time.
//! Must not: listen; talk to anybody whose certificate the API server does not name.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use netpol_kube::Access;
use rustix::net::sockopt;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tracing::{debug, info, warn};

use super::certificate;
use super::protocol::{
    ACCEPTED, ADDRESS_KEY, CERTIFICATE_KEY, CONFIG_MAP, Greeting, SERVER_NAME, read_line,
};

/// Connections at the same time, each with a request or waiting for one.
const MAX_CONNECTIONS: usize = 8;

/// How long it may take until the observer has accepted a connection.
const LIMIT: Duration = Duration::from_secs(10);

/// Pauses after the first failure and after many.
const MIN_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// An idle connection sends a probe this often, so that an observer whose node is gone is noticed within a minute.
const KEEPALIVE: Duration = Duration::from_secs(15);
const N_PROBES: u32 = 3;

/// Where the observer is said to be, and what to tell it.
#[derive(Clone)]
pub struct Settings {
    /// The API server.
    pub access: Access,
    /// The namespace of the observer, which is that of the agent.
    pub namespace: String,
    /// The file with the agent's token for [`AUDIENCE`](super::AUDIENCE). The kubelet renews it.
    pub token: PathBuf,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("ConfigMap {CONFIG_MAP}: {0}")]
    ConfigMap(#[from] netpol_kube::Error),
    #[error("ConfigMap {CONFIG_MAP} does not exist")]
    NoConfigMap,
    #[error("ConfigMap {CONFIG_MAP} has no `{0}` yet: the observer has not started")]
    NoKey(&'static str),
    #[error("ConfigMap {CONFIG_MAP}: `{ADDRESS_KEY}`: {0}")]
    Address(#[from] std::net::AddrParseError),
    #[error("ConfigMap {CONFIG_MAP}: {0}")]
    Certificate(#[from] certificate::Error),
    #[error("token {}: {source}", path.display())]
    Token { path: PathBuf, source: io::Error },
    #[error("{address}: {source}")]
    Connection { address: SocketAddr, source: io::Error },
    #[error("{address} refuses this agent: {answer}")]
    Refused { address: SocketAddr, answer: String },
    #[error("no answer within {} s", LIMIT.as_secs())]
    Timeout,
}

/// Answers the observer's requests until it is dropped. `make` makes the service of one connection.
pub async fn serve<S, B>(settings: Settings, make: impl Fn() -> S + Send)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut failures = Failures::default();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match timeout(LIMIT, connect(&settings)).await.unwrap_or(Err(Error::Timeout)) {
            Ok((stream, address)) => {
                failures.end(address);
                let (first, asked) = oneshot::channel::<Infallible>();
                let service = Announcing { inner: make(), first: Mutex::new(Some(first)) };
                tokio::spawn(async move {
                    let connection =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    if let Err(error) = connection.await {
                        debug!(%error, "connection of the observer ended early");
                    }
                    drop(place);
                });
                // The next one is needed when this one has a request, or has ended.
                drop(asked.await);
            }
            Err(error) => {
                drop(place);
                sleep(failures.add(&error)).await;
            }
        }
    }
}

/// Failures one after the other. The first is logged, and the end of them.
#[derive(Debug, Default)]
struct Failures {
    latest: Option<String>,
    n: u32,
    is_connected: bool,
}

impl Failures {
    fn add(&mut self, error: &Error) -> Duration {
        let text = error.to_string();
        if self.latest.as_ref() != Some(&text) {
            warn!(error = text, "no connection to the observer");
            self.latest = Some(text);
        }
        self.is_connected = false;
        let pause = MIN_PAUSE.saturating_mul(2_u32.saturating_pow(self.n)).min(MAX_PAUSE);
        self.n = self.n.saturating_add(1);
        pause
    }

    fn end(&mut self, address: SocketAddr) {
        if !self.is_connected {
            info!(%address, "the observer may ask this agent");
        }
        *self = Self { is_connected: true, ..Self::default() };
    }
}

async fn connect(settings: &Settings) -> Result<(TlsStream<TcpStream>, SocketAddr), Error> {
    let Settings { access, namespace, token } = settings;
    let config_maps = Api::<ConfigMap>::namespaced(access.client(), namespace);
    let found = config_maps.get_opt(CONFIG_MAP).await.map_err(netpol_kube::Error::from)?;
    let data = found.ok_or(Error::NoConfigMap)?.data.unwrap_or_default();
    let value = |key| data.get(key).ok_or(Error::NoKey(key));
    let address: SocketAddr = value(ADDRESS_KEY)?.parse()?;
    let tls = certificate::client_config(value(CERTIFICATE_KEY)?)?;
    let failed = |source| Error::Connection { address, source };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    keep_alive(&stream).map_err(failed)?;
    let name =
        ServerName::try_from(SERVER_NAME).map_err(|error| failed(io::Error::other(error)))?;
    let mut stream =
        TlsConnector::from(Arc::new(tls)).connect(name, stream).await.map_err(failed)?;
    // Read for each connection, because the kubelet renews it.
    let text = tokio::fs::read_to_string(token).await;
    let text = text.map_err(|source| Error::Token { path: token.clone(), source })?;
    let greeting = Greeting { token: text.trim().to_owned() };
    let line = serde_json::to_string(&greeting).map_err(|error| failed(error.into()))? + "\n";
    stream.write_all(line.as_bytes()).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let answer = read_line(&mut stream).await.map_err(failed)?;
    if answer == ACCEPTED { Ok((stream, address)) } else { Err(Error::Refused { address, answer }) }
}

/// Makes the kernel notice that the peer is gone.
pub(crate) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
    Ok(sockopt::set_tcp_keepcnt(stream, N_PROBES)?)
}

/// A service that says when it has its first request, or is dropped: its sender is dropped then.
struct Announcing<S> {
    inner: S,
    first: Mutex<Option<oneshot::Sender<Infallible>>>,
}

impl<S: Service<R>, R> Service<R> for Announcing<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: R) -> Self::Future {
        drop(self.first.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_again() {
        let mut failures = Failures::default();
        let pauses: Vec<_> = (0..40).map(|_| failures.add(&Error::Timeout)).collect();
        assert_eq!(pauses.first(), Some(&MIN_PAUSE));
        assert!(pauses.is_sorted() && pauses.last() == Some(&MAX_PAUSE));
        failures.end(([127, 0, 0, 1], 1).into());
        assert_eq!(failures.add(&Error::Timeout), MIN_PAUSE);
    }
}
