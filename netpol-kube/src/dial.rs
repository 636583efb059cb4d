//! Makes the TCP connections to the API server: directly, to another of its addresses, or through a proxy.
//!
//! In: the server's URL. Out: a stream. TLS is on top of it and checks the name of that URL, also at another address.
//! Must not: decide which proxy; that is the configuration's.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::{BoxError, Service};
use tracing::debug;

/// Time for a connection to one address if there are others to try.
const PATIENCE: Duration = Duration::from_secs(2);

/// Further addresses of the API server. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Alternatives(Arc<RwLock<Vec<SocketAddr>>>);

impl Alternatives {
    /// Replaces the addresses.
    pub(super) fn set(&self, addresses: Vec<SocketAddr>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    fn get(&self) -> Vec<SocketAddr> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why a proxy cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the proxy {0} is not of the form http://HOST:PORT or socks5://HOST:PORT")]
pub(super) struct UnknownProxy(String);

/// The way to the API server.
#[derive(Clone, Debug)]
pub(super) enum Dialer {
    /// Without a proxy.
    Direct {
        /// Connects to one address.
        http: HttpConnector,
        /// Tried if the server's own address cannot be reached, such as that of a Service before kube-proxy has written its
        /// rules.
        alternatives: Alternatives,
    },
    /// Through a proxy that knows CONNECT.
    Tunnel(Tunnel<HttpConnector>),
    /// Through a SOCKS proxy.
    Socks(SocksV5<HttpConnector>),
}

impl Dialer {
    /// The way to a server, through the proxy of its kubeconfig, else through that of the environment (`HTTPS_PROXY`,
    /// `NO_PROXY`). As for kubectl, the environment does not concern the loopback addresses.
    pub(super) fn new(
        http: HttpConnector,
        server: &Uri,
        proxy: Option<&str>,
        alternatives: Alternatives,
    ) -> Result<Self, UnknownProxy> {
        let host = server.host().unwrap_or_default();
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse();
        let is_local = host == "localhost" || ip.is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        let matcher = match proxy {
            Some(proxy) => Matcher::builder().all(proxy).build(),
            None if is_local => return Ok(Self::Direct { http, alternatives }),
            None => Matcher::from_env(),
        };
        let unknown = || UnknownProxy(proxy.unwrap_or_default().to_owned());
        let Some(found) = matcher.intercept(server) else {
            return match proxy {
                Some(_) => Err(unknown()),
                None => Ok(Self::Direct { http, alternatives }),
            };
        };
        let at = found.uri().clone();
        match at.scheme_str() {
            Some("http") => {
                let tunnel = Tunnel::new(at, http);
                Ok(Self::Tunnel(match found.basic_auth() {
                    Some(auth) => tunnel.with_auth(auth.clone()),
                    None => tunnel,
                }))
            }
            Some("socks5" | "socks5h") => {
                let socks = SocksV5::new(at, http);
                Ok(Self::Socks(match found.raw_auth() {
                    Some((user, password)) => socks.with_auth(user.to_owned(), password.to_owned()),
                    None => socks,
                }))
            }
            _ => Err(UnknownProxy(at.to_string())),
        }
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Direct { http, .. } => http.poll_ready(context).map_err(Into::into),
            Self::Tunnel(tunnel) => tunnel.poll_ready(context).map_err(Into::into),
            Self::Socks(socks) => socks.poll_ready(context).map_err(Into::into),
        }
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        match self {
            Self::Direct { http, alternatives } => {
                connect(http.clone(), server, alternatives.get()).boxed()
            }
            Self::Tunnel(tunnel) => {
                tunnel.call(server).map(|made| made.map_err(Into::into)).boxed()
            }
            Self::Socks(socks) => socks.call(server).map(|made| made.map_err(Into::into)).boxed(),
        }
    }
}

/// Connects to the server, or to the first of its other addresses that answers. The error is that of the server's own address.
async fn connect(
    mut http: HttpConnector,
    server: Uri,
    alternatives: Vec<SocketAddr>,
) -> Result<TokioIo<TcpStream>, BoxError> {
    if alternatives.is_empty() {
        return Ok(http.call(server).await?);
    }
    let error = match timeout(PATIENCE, http.call(server)).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => error.into(),
        Err(elapsed) => BoxError::from(elapsed),
    };
    for address in alternatives {
        let at = Uri::builder().scheme("http").authority(address.to_string()).path_and_query("/");
        if let Ok(Ok(stream)) = timeout(PATIENCE, http.call(at.build()?)).await {
            debug!(%address, "connected to another address of the API server");
            return Ok(stream);
        }
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialer(server: &'static str, proxy: Option<&str>) -> Result<Dialer, String> {
        let server = Uri::from_static(server);
        Dialer::new(HttpConnector::new(), &server, proxy, Alternatives::default())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_proxy_of_the_kubeconfig_is_used_for_every_server() {
        for server in ["https://10.96.0.1", "https://127.0.0.1:6443", "http://api.example"] {
            for proxy in ["http://proxy.example:3128", "http://me:secret@proxy.example:3128"] {
                assert!(matches!(dialer(server, Some(proxy)), Ok(Dialer::Tunnel(_))), "{proxy}");
            }
            let socks = dialer(server, Some("socks5://proxy.example:1080"));
            assert!(matches!(socks, Ok(Dialer::Socks(_))), "{socks:?}");
        }
        let error = dialer("https://10.96.0.1", Some("ftp://proxy.example")).unwrap_err();
        assert!(error.contains("ftp://proxy.example"), "{error}");
    }

    #[test]
    fn the_environment_does_not_concern_loopback_addresses() {
        for server in ["https://127.0.0.1:6443", "https://[::1]:6443", "https://localhost:6443"] {
            assert!(matches!(dialer(server, None), Ok(Dialer::Direct { .. })), "{server}");
        }
    }
}
