//! The client, whose connections end when the path to the API server is dead.
//!
//! In: a configuration. Out: a client with TCP keepalive. kube creates its connector itself and has no setting for keepalive, so
//! this module stacks the layers of kube's client again.
//! Must not: retry, because the caller reports each failure.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use super::dial::{Alternatives, Dialer};

/// TCP keepalive: how the kernel notices that the path to the API server is dead.
///
/// An idle connection costs one probe and one acknowledgement per `idle`. Neither process wakes for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Time without a received segment after which the first probe is sent. Whole seconds.
    pub idle: Duration,
    /// Time between two unacknowledged probes. Whole seconds.
    pub interval: Duration,
    /// Time without a received segment, or with unacknowledged data, after which the kernel ends the connection. Checked
    /// whenever a probe is due.
    pub timeout: Duration,
}

impl Default for Keepalive {
    /// Ends a connection after three lost probes, 14 to 17 seconds after the last received segment.
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(8),
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(14),
        }
    }
}

/// Creates a client. `proxy` is that of the kubeconfig.
///
/// # Errors
/// The configuration names certificates, keys, tokens or a proxy that cannot be used.
pub(super) fn client(
    config: Config,
    proxy: Option<&str>,
    keepalive: Keepalive,
    alternatives: Alternatives,
) -> Result<Client, kube::Error> {
    let Keepalive { idle, interval, timeout } = keepalive;
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_keepalive(Some(idle));
    connector.set_keepalive_interval(Some(interval));
    // Replaces the number of probes: with a user timeout the kernel does not count them.
    connector.set_tcp_user_timeout(Some(timeout));
    let dialer = Dialer::new(connector, &config.cluster_url, proxy, alternatives)
        .map_err(|error| kube::Error::Service(error.into()))?;
    let connector = config.rustls_https_connector_with_connector(dialer)?;
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
