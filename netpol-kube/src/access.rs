//! Finds the API server and its credentials, and holds the client.

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::sync::watch;

use super::dial::Alternatives;
use super::transport::{self, Keepalive};

/// Time limit for making a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the API server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig that was named cannot be used.
    #[error("kubeconfig {}: {}", path.display(), chain(source))]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<KubeconfigError>,
    },
    /// The process runs in a pod, but the pod's service account cannot be used.
    #[error("service account of this pod: {}", chain(source))]
    ServiceAccount {
        /// The cause.
        source: Box<InClusterError>,
    },
    /// No configuration names an API server.
    #[error(
        "no API server: --kubeconfig is not given, this is not a pod (KUBERNETES_SERVICE_HOST is not set), and the default kubeconfig cannot be used: {}",
        chain(source)
    )]
    Unknown {
        /// Why the default kubeconfig cannot be used.
        source: Box<KubeconfigError>,
    },
    /// A configuration was found, but no client can be made from it.
    #[error("client for {server}: {}", explain(source))]
    Client {
        /// URL of the API server.
        server: String,
        /// The cause.
        source: Box<kube::Error>,
    },
    /// A request failed.
    #[error("{}", explain(source))]
    Request {
        /// The cause.
        source: Box<kube::Error>,
    },
    /// A response is not what the API specifies.
    #[error("answer of the API server: {source}")]
    Answer {
        /// The cause.
        #[from]
        source: serde_json::Error,
    },
    /// No response arrived in time.
    #[error("no answer within {} s", timeout.as_secs())]
    Timeout {
        /// The time limit.
        timeout: Duration,
    },
}

impl From<kube::Error> for Error {
    fn from(source: kube::Error) -> Self {
        Self::Request { source: Box::new(source) }
    }
}

impl Error {
    /// The HTTP status of the API server's response, if there was one.
    pub fn status(&self) -> Option<u16> {
        let Self::Request { source } = self else { return None };
        let kube::Error::Api(status) = &**source else { return None };
        Some(status.code)
    }
}

/// A client for the API server, and where its configuration came from. Clones share the client: when one of them renews it, all
/// of them use the new one.
#[derive(Clone)]
pub struct Access {
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    keepalive: Keepalive,
    alternatives: Alternatives,
    latest: watch::Sender<Latest>,
}

/// The newest client.
#[derive(Clone)]
pub(super) struct Latest {
    pub(super) client: Client,
    /// Number of clients made before this one.
    pub(super) number: u64,
}

impl Access {
    /// Finds the API server: by the kubeconfig named here, else by the service account of this pod, else
    /// by the default kubeconfig (`$KUBECONFIG`, `~/.kube/config`). Sends no request yet.
    ///
    /// # Errors
    /// [`Error::Kubeconfig`], [`Error::ServiceAccount`] or [`Error::Unknown`] if the configuration cannot be
    /// used, [`Error::Client`] if it makes no client.
    pub async fn open(kubeconfig: Option<&Path>) -> Result<Self, Error> {
        Self::open_with(kubeconfig, None, Keepalive::default()).await
    }

    /// As [`Access::open`], with the context of this name instead of the kubeconfig's current one. With a name, the service account
    /// of a pod is not considered.
    ///
    /// # Errors
    /// Those of [`Access::open`].
    pub async fn open_context(
        kubeconfig: Option<&Path>,
        context: Option<&str>,
    ) -> Result<Self, Error> {
        Self::open_with(kubeconfig, context, Keepalive::default()).await
    }

    /// As [`Access::open`], with other keepalive settings.
    ///
    /// # Errors
    /// Those of [`Access::open`].
    pub async fn open_with(
        kubeconfig: Option<&Path>,
        context: Option<&str>,
        keepalive: Keepalive,
    ) -> Result<Self, Error> {
        let alternatives = Alternatives::default();
        let client = client(kubeconfig, context, keepalive, alternatives.clone()).await?;
        let latest = watch::Sender::new(Latest { client, number: 0 });
        let (kubeconfig, context) = (kubeconfig.map(Path::to_owned), context.map(str::to_owned));
        Ok(Self { kubeconfig, context, keepalive, alternatives, latest })
    }

    /// Sets further addresses of the API server, which are tried if its own cannot be reached. TLS expects the same name there.
    pub fn set_alternatives(&self, addresses: Vec<SocketAddr>) {
        self.alternatives.set(addresses);
    }

    /// The newest client.
    pub fn client(&self) -> Client {
        self.latest.borrow().client.clone()
    }

    /// The newest client with its number, for [`Access::renew`].
    pub(super) fn latest(&self) -> Latest {
        self.latest.borrow().clone()
    }

    /// Reads the configuration again and makes a new client from it, because tokens, certificates or the server's address
    /// may have changed. `failed` is the number of the client with which the caller failed; if a newer one exists, nothing
    /// is done.
    ///
    /// # Errors
    /// Those of [`Access::open`].
    pub(super) async fn renew(&self, failed: u64) -> Result<(), Error> {
        if self.latest.borrow().number == failed {
            let alternatives = self.alternatives.clone();
            let (kubeconfig, context) = (self.kubeconfig.as_deref(), self.context.as_deref());
            let client = client(kubeconfig, context, self.keepalive, alternatives).await?;
            self.latest.send_if_modified(|latest| {
                let is_first = latest.number == failed;
                if is_first {
                    *latest = Latest { client, number: failed + 1 };
                }
                is_first
            });
        }
        Ok(())
    }
}

async fn client(
    kubeconfig: Option<&Path>,
    context: Option<&str>,
    keepalive: Keepalive,
    alternatives: Alternatives,
) -> Result<Client, Error> {
    let (mut config, proxy) = match kubeconfig {
        Some(path) => from_file(path, context).await?,
        None => inferred(context).await?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let server = config.cluster_url.to_string();
    transport::client(config, proxy.as_deref(), keepalive, alternatives)
        .map_err(|source| Error::Client { server, source: Box::new(source) })
}

/// A configuration, and the proxy that its kubeconfig names.
type Found = (Config, Option<String>);

async fn from_file(path: &Path, context: Option<&str>) -> Result<Found, Error> {
    let refuse = |source| Error::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
    configure(Kubeconfig::read_from(path).map_err(refuse)?, context).await.map_err(refuse)
}

async fn inferred(context: Option<&str>) -> Result<Found, Error> {
    match (context, Config::incluster()) {
        (None, Ok(config)) => Ok((config, None)),
        (Some(_), _) | (None, Err(InClusterError::ReadEnvironmentVariable(_))) => {
            let refuse = |source| Error::Unknown { source: Box::new(source) };
            configure(Kubeconfig::read().map_err(refuse)?, context).await.map_err(refuse)
        }
        (None, Err(source)) => Err(Error::ServiceAccount { source: Box::new(source) }),
    }
}

/// kube takes the proxy of the environment for that of the kubeconfig, so it is read here.
async fn configure(
    kubeconfig: Kubeconfig,
    context: Option<&str>,
) -> Result<Found, KubeconfigError> {
    let proxy = proxy_url(&kubeconfig, context);
    let context = context.map(str::to_owned);
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    Ok((config, proxy))
}

/// `proxy-url` of the cluster of the context of this name, else of the current one.
fn proxy_url(kubeconfig: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let current = context.or(kubeconfig.current_context.as_deref())?;
    let context = kubeconfig.contexts.iter().find(|context| context.name == current)?;
    let name = &context.context.as_ref()?.cluster;
    let cluster = kubeconfig.clusters.iter().find(|cluster| cluster.name == *name)?;
    cluster.cluster.as_ref()?.proxy_url.clone().filter(|proxy| !proxy.is_empty())
}

/// A client error and its causes in one line.
pub(super) fn explain(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        format!("the API server answers {} {}: {}", status.code, status.reason, status.message)
    } else if let kube::Error::Service(source) = error {
        chain(&**source)
    } else {
        chain(error)
    }
}

/// An error and its causes in one line, without causes whose text the line already contains.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = source.source();
    }
    text
}
