//! Connections to the API server that end when the path to it is dead.
//!
//! In: a configuration. Out: a client like kube's own, except that its sockets are probed by the kernel. kube builds its connector
//! itself and has no setting for that, so the layers of its client are stacked here again.
//! Must not: retry. A failed request is reported to the caller, who decides.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

/// How the kernel finds out that nothing reaches the API server any more.
///
/// An idle connection costs one probe and one acknowledgement each `idle`, and wakes neither end's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// A connection on which nothing arrived for so long is probed. Whole seconds.
    pub idle: Duration,
    /// Time between two probes that are not acknowledged. Whole seconds.
    pub interval: Duration,
    /// A connection is dead if a probe was sent and nothing arrived for so long, or if data is not acknowledged for so long.
    pub timeout: Duration,
}

impl Default for Keepalive {
    /// Dead after the fourth probe that is not acknowledged, at most 17 seconds after the last sign of life.
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(8),
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(14),
        }
    }
}

/// Makes a client.
///
/// # Errors
/// The configuration names certificates, keys or tokens that cannot be used, or a proxy.
pub(super) fn client(config: Config, keepalive: Keepalive) -> Result<Client, kube::Error> {
    if config.proxy_url.is_some() {
        // Which proxies are supported is kube's decision: without its features, none.
        return Client::try_from(config);
    }
    let Keepalive { idle, interval, timeout } = keepalive;
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_keepalive(Some(idle));
    connector.set_keepalive_interval(Some(interval));
    // Takes the place of a number of probes: the kernel compares the time of silence with it after each probe.
    connector.set_tcp_user_timeout(Some(timeout));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let mut connector = TimeoutConnector::new(connector);
    connector.set_connect_timeout(config.connect_timeout);
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http.build::<_, Body>(connector));
    Ok(Client::new(service, config.default_namespace))
}
