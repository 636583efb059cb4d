//! The observer's process: two ports, and what others must know to find them.
//!
//! In: a configuration. Out: an aggregated API for the API server, and a port for agents. Must not: write anything to the API server but
//! its own `ConfigMap` and the certificate of its own `APIService`.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Api;
use kube::api::{Patch, PatchParams};
use netpol_kube::Access;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::api::{self, Server};
use super::certificate::{self, Certificate, provider};
use super::dial::keep_alive;
use super::front_proxy::{self, FrontProxy};
use super::links::Links;
use super::protocol::{
    ACCEPTED, ADDRESS_KEY, CERTIFICATE_KEY, CONFIG_MAP, GROUP, Greeting, SERVER_NAME, VERSION,
    read_line,
};
use super::tokens::Tokens;

/// Connections of the API server at the same time. Users who follow drops have one each.
const MAX_REQUESTS: usize = 1024;

/// Connections whose agent is not known yet.
const MAX_GREETINGS: usize = 64;

/// How long a connection may take until it is known whose it is.
const LIMIT: Duration = Duration::from_secs(10);

/// How often it is read how the API server identifies itself, whose certificates are renewed.
const PERIOD: Duration = Duration::from_mins(1);

/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(2);

/// The configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// A kubeconfig file; `None` takes the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the observer and of the agents.
    pub namespace: String,
    /// The address of the pod, at which the API server and the agents find it.
    pub address: IpAddr,
    /// The port on which the API server asks.
    pub api_port: u16,
    /// The port to which agents connect.
    pub agents_port: u16,
    /// Name of the agents' service account.
    pub service_account: String,
}

/// Why the observer does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server cannot be used.
    #[error(transparent)]
    Access(#[from] netpol_kube::Error),
    /// It does not say how it identifies itself.
    #[error(transparent)]
    FrontProxy(#[from] front_proxy::Error),
    /// There is no certificate.
    #[error(transparent)]
    Certificate(#[from] certificate::Error),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
}

/// How users are authenticated now.
type Front = Arc<(FrontProxy, ServerConfig)>;

/// Runs until `cancel` is cancelled.
///
/// # Errors
/// It cannot start.
pub async fn run(config: Config, cancel: CancellationToken) -> Result<(), Error> {
    let Config { kubeconfig, namespace, address, api_port, agents_port, service_account } = config;
    let access = Access::open(kubeconfig.as_deref()).await?;
    let names =
        [SERVER_NAME.to_owned(), format!("{SERVER_NAME}.{namespace}.svc"), address.to_string()];
    let own = Arc::new(Certificate::make(names.into())?);
    let listen = async |address: SocketAddr| {
        TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
    };
    let place = SocketAddr::new(address, agents_port);
    let (api, agents) = (listen(SocketAddr::new(address, api_port)).await?, listen(place).await?);
    let front = front(&access, &own).await?;
    let (fronts, latest) = watch::channel(Arc::new(front));
    let links = Links::default();
    let tokens = Arc::new(Tokens::new(access.clone(), namespace.clone(), &service_account));
    let server = Arc::new(Server::new(access.clone(), links.clone()));
    let for_agents = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![own.der.clone()], own.key())?;
    let running = async {
        tokio::join!(
            renew(&access, &own, &fronts),
            publish(&access, &namespace, place, &own),
            accept_requests(api, server, latest),
            accept_agents(agents, Arc::new(for_agents), tokens, links),
        );
    };
    info!(%address, api_port, agents_port, "observer started");
    // Nothing is left to do, whether cancelled or not.
    let _: Option<()> = cancel.run_until_cancelled(running).await;
    Ok(())
}

async fn front(access: &Access, own: &Certificate) -> Result<(FrontProxy, ServerConfig), Error> {
    let front_proxy = FrontProxy::read(access).await?;
    let config = front_proxy.server_config(own)?;
    Ok((front_proxy, config))
}

/// Reads again and again how the API server identifies itself.
async fn renew(access: &Access, own: &Certificate, fronts: &watch::Sender<Front>) {
    loop {
        sleep(PERIOD).await;
        match front(access, own).await {
            Ok(front) => {
                fronts.send_if_modified(|latest| {
                    let is_news = latest.0 != front.0;
                    if is_news {
                        *latest = Arc::new(front);
                    }
                    is_news
                });
            }
            Err(error) => {
                warn!(%error, "the API server's client certificate is taken from the last answer");
            }
        }
    }
}

/// Tells the agents and the API server where the observer is, and by which certificate they know it. Others may have changed it since.
async fn publish(access: &Access, namespace: &str, place: SocketAddr, own: &Certificate) {
    let config_map =
        json!({ "data": { ADDRESS_KEY: place.to_string(), CERTIFICATE_KEY: own.pem } });
    let bundle = json!({ "spec": { "caBundle": ByteString(own.pem.clone().into_bytes()) } });
    let params = PatchParams::default();
    loop {
        let client = access.client();
        let config_maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
        let services = Api::<APIService>::all(client);
        let published = config_maps.patch(CONFIG_MAP, &params, &Patch::Merge(&config_map)).await;
        let registered =
            services.patch(&format!("{VERSION}.{GROUP}"), &params, &Patch::Merge(&bundle)).await;
        let failed = [published.err(), registered.err()].into_iter().flatten();
        let failed: Vec<_> =
            failed.map(|error| netpol_kube::Error::from(error).to_string()).collect();
        if failed.is_empty() {
            sleep(PERIOD).await;
        } else {
            warn!(error = failed.join("; "), "the observer cannot say where it is");
            sleep(PAUSE).await;
        }
    }
}

async fn accepted(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                warn!(%error, "connection not accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Serves the API server.
async fn accept_requests(
    listener: TcpListener,
    server: Arc<Server>,
    latest: watch::Receiver<Front>,
) {
    let places = Arc::new(Semaphore::new(MAX_REQUESTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = accepted(&listener).await;
        let (server, front) = (Arc::clone(&server), Arc::clone(&latest.borrow()));
        tokio::spawn(async move {
            if let Err(error) = serve(stream, server, front).await {
                debug!(%error, "connection ended early");
            }
            drop(place);
        });
    }
}

async fn serve(stream: TcpStream, server: Arc<Server>, front: Front) -> io::Result<()> {
    keep_alive(&stream)?;
    let acceptor = TlsAcceptor::from(Arc::new(front.1.clone()));
    let stream = timeout(LIMIT, acceptor.accept(stream)).await??;
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate =
        certificates.and_then(|chain| chain.first()).map(|first| first.clone().into_owned());
    let certificate = Arc::new(certificate);
    let service = service_fn(move |request| {
        let (server, front) = (Arc::clone(&server), Arc::clone(&front));
        let certificate = Arc::clone(&certificate);
        async move {
            let answer = api::answer(server, &front.0, (*certificate).as_ref(), request).await;
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(2 * PERIOD)
        .serve_connection(TokioIo::new(stream), service);
    connection.await.map_err(io::Error::other)
}

/// Takes the connections of agents.
async fn accept_agents(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    tokens: Arc<Tokens>,
    links: Links,
) {
    let places = Arc::new(Semaphore::new(MAX_GREETINGS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = accepted(&listener).await;
        let (tls, tokens, links) = (Arc::clone(&tls), Arc::clone(&tokens), links.clone());
        tokio::spawn(async move {
            let known = timeout(LIMIT, greet(stream, tls, &tokens)).await;
            drop(place);
            match known {
                Ok(Ok((node, stream))) => {
                    if let Err(error) = links.add(&node, stream).await {
                        warn!(node, error, "connection of an agent refused");
                    }
                }
                Ok(Err(error)) => warn!(%error, "connection refused: not of an agent"),
                Err(late) => debug!(%late, "connection ended before it was known whose it is"),
            }
        });
    }
}

/// Finds out of which node the peer is.
async fn greet(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    tokens: &Tokens,
) -> io::Result<(String, tokio_rustls::server::TlsStream<TcpStream>)> {
    keep_alive(&stream)?;
    let mut stream = TlsAcceptor::from(tls).accept(stream).await?;
    let line = read_line(&mut stream).await?;
    let Greeting { token } = serde_json::from_str(&line)?;
    let (answer, found) = match tokens.node(&token).await {
        Ok(node) => (ACCEPTED.to_owned(), Ok(node)),
        Err(refusal) => (refusal.to_string(), Err(io::Error::other(refusal))),
    };
    stream.write_all(format!("{answer}\n").as_bytes()).await?;
    stream.flush().await?;
    Ok((found?, stream))
}
