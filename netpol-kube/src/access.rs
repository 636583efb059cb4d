//! Where the API server is and how to be let in.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::sync::watch;

use super::transport::{self, Keepalive};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What can go wrong with the API server.
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
    /// This is a pod, but its service account cannot be used.
    #[error("service account of this pod: {}", chain(source))]
    ServiceAccount {
        /// The cause.
        source: Box<InClusterError>,
    },
    /// Nothing says where the API server is.
    #[error(
        "no API server: --kubeconfig is not given, this is not a pod (KUBERNETES_SERVICE_HOST is not set), and the default kubeconfig cannot be used: {}",
        chain(source)
    )]
    Unknown {
        /// What is wrong with the default kubeconfig.
        source: Box<KubeconfigError>,
    },
    /// The configuration was found but no client can be made from it.
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
    /// An answer is not what the API promises.
    #[error("answer of the API server: {source}")]
    Answer {
        /// The cause.
        #[from]
        source: serde_json::Error,
    },
    /// There is no answer.
    #[error("no answer within {} s", timeout.as_secs())]
    Timeout {
        /// How long it was waited for.
        timeout: Duration,
    },
}

impl From<kube::Error> for Error {
    fn from(source: kube::Error) -> Self {
        Self::Request { source: Box::new(source) }
    }
}

impl Error {
    /// The HTTP status with which the API server answered, if it did.
    pub(super) fn status(&self) -> Option<u16> {
        let Self::Request { source } = self else { return None };
        let kube::Error::Api(status) = &**source else { return None };
        Some(status.code)
    }
}

/// A way to the API server: a client, and where its configuration came from. Clones share the client: what one of them
/// renews is renewed for all.
#[derive(Clone)]
pub struct Access {
    kubeconfig: Option<PathBuf>,
    keepalive: Keepalive,
    latest: watch::Sender<Latest>,
}

/// The client that was made last.
#[derive(Clone)]
pub(super) struct Latest {
    pub(super) client: Client,
    /// Counts the clients that were made.
    pub(super) number: u64,
}

impl Access {
    /// Finds the API server: by the kubeconfig named here, else by the service account of this pod, else
    /// by the default kubeconfig (`$KUBECONFIG`, `~/.kube/config`). Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`Error::Kubeconfig`], [`Error::ServiceAccount`] or [`Error::Unknown`] if the configuration cannot be
    /// used, [`Error::Client`] if it makes no client.
    pub async fn open(kubeconfig: Option<&Path>) -> Result<Self, Error> {
        Self::open_with(kubeconfig, Keepalive::default()).await
    }

    /// As [`Access::open`], with connections that are probed at other times.
    ///
    /// # Errors
    /// Those of [`Access::open`].
    pub async fn open_with(kubeconfig: Option<&Path>, keepalive: Keepalive) -> Result<Self, Error> {
        let client = client(kubeconfig, keepalive).await?;
        let latest = watch::Sender::new(Latest { client, number: 0 });
        Ok(Self { kubeconfig: kubeconfig.map(Path::to_owned), keepalive, latest })
    }

    /// The client.
    pub fn client(&self) -> Client {
        self.latest.borrow().client.clone()
    }

    /// The client, with its number for [`Access::renew`].
    pub(super) fn latest(&self) -> Latest {
        self.latest.borrow().clone()
    }

    /// Takes a client from what the configuration says now, for all who ask from now on: tokens, certificates and the
    /// server's address may have been replaced since. Does nothing if somebody has done so since the client of this
    /// number was made, with which the caller has failed.
    ///
    /// # Errors
    /// Those of [`Access::open`].
    pub(super) async fn renew(&self, failed: u64) -> Result<(), Error> {
        if self.latest.borrow().number == failed {
            let client = client(self.kubeconfig.as_deref(), self.keepalive).await?;
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

async fn client(kubeconfig: Option<&Path>, keepalive: Keepalive) -> Result<Client, Error> {
    let mut config = match kubeconfig {
        Some(path) => from_file(path).await?,
        None => inferred().await?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let server = config.cluster_url.to_string();
    transport::client(config, keepalive)
        .map_err(|source| Error::Client { server, source: Box::new(source) })
}

async fn from_file(path: &Path) -> Result<Config, Error> {
    let refuse = |source| Error::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
    let kubeconfig = Kubeconfig::read_from(path).map_err(refuse)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(refuse)
}

async fn inferred() -> Result<Config, Error> {
    match Config::incluster() {
        Ok(config) => Ok(config),
        Err(InClusterError::ReadEnvironmentVariable(_)) => {
            let found = Config::from_kubeconfig(&KubeConfigOptions::default()).await;
            found.map_err(|source| Error::Unknown { source: Box::new(source) })
        }
        Err(source) => Err(Error::ServiceAccount { source: Box::new(source) }),
    }
}

/// A client error in one line, with its causes.
pub(super) fn explain(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        format!("the API server answers {} {}: {}", status.code, status.reason, status.message)
    } else if let kube::Error::Service(source) = error {
        chain(&**source)
    } else {
        chain(error)
    }
}

/// An error and its causes in one line; a cause that repeats what the error says is left out.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
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
