//! A real `kube-apiserver` with its `etcd`, on the loopback interface.
//!
//! In: the folder with both programs; by convention the variable `KUBEBUILDER_ASSETS` names it. Out: a server that
//! authenticates an administrator and its own service accounts. Each control plane has its own certificates, ports, and
//! folder, and ends with the process that started it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::admin::{Admin, place};
use super::child::Program;
use super::keys::{self, Authority};
use crate::settings::patience;

/// How long a program may take until it serves.
const START_LIMIT: Duration = Duration::from_mins(1);

/// Polling interval while a program starts.
const PAUSE: Duration = Duration::from_millis(50);

/// Attempts to start, each on other ports, because another process may take a free port first.
const N_ATTEMPTS: usize = 3;

/// Who may do everything.
const ADMIN_TOKEN: &str = "administrator";

/// The audit policy: log metadata of each request (user, resource, time, and status).
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
rules: [{ level: Metadata }]
";

/// The folder of `kube-apiserver` and `etcd`, if there is one.
pub(super) fn assets() -> Option<PathBuf> {
    std::env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

/// The two programs, running.
pub struct ControlPlane {
    assets: PathBuf,
    folder: TempDir,
    authority: Authority,
    etcd: Program,
    etcd_address: SocketAddr,
    server: Option<Program>,
    address: SocketAddr,
    /// Additional arguments.
    extra: Vec<String>,
    admin: Admin,
}

impl ControlPlane {
    /// Starts both programs, and waits until the server serves.
    ///
    /// # Errors
    /// A program is missing, ends, or does not serve within the time: the message holds the end of its log.
    pub(super) async fn start(assets: PathBuf) -> Result<Self> {
        for name in ["etcd", "kube-apiserver"] {
            let is_there = assets.join(name).is_file();
            ensure!(is_there, "KUBEBUILDER_ASSETS: there is no {name} in {}", assets.display());
        }
        let folder = tempfile::tempdir()?;
        let authority = prepare(folder.path())?;
        let (etcd, etcd_address) = start_etcd(&assets, folder.path()).await?;
        let address = free_address()?;
        let kubeconfig = folder.path().join("admin.kubeconfig");
        fs::write(&kubeconfig, admin_kubeconfig(address, folder.path()).to_string())?;
        let admin = Admin::open(&kubeconfig).await?;
        let extra = Vec::new();
        let mut plane = Self {
            assets,
            folder,
            authority,
            etcd,
            etcd_address,
            server: None,
            address,
            extra,
            admin,
        };
        plane.start_server().await?;
        Ok(plane)
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who may do everything.
    pub(super) fn admin(&self) -> &Admin {
        &self.admin
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("admin.kubeconfig")
    }

    /// The certificate by which the server is trusted.
    pub(super) fn trusted(&self) -> &str {
        &self.authority.certificate
    }

    /// Ends the server at once; `etcd` keeps what it has.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts the server again, on the same port, if it does not run.
    ///
    /// # Errors
    /// It ends, or does not serve within the time: the message holds the end of its log.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.server.is_none() {
            self.start_server().await?;
        }
        Ok(())
    }

    /// Restarts the server with these additional arguments.
    pub(super) async fn restart_with(&mut self, extra: &[&str]) -> Result<()> {
        self.stop();
        self.extra = extra.iter().map(|&argument| argument.to_owned()).collect();
        self.start_server().await
    }

    /// Gives the server a certificate of another CA, which clients of the first CA reject.
    pub(super) async fn change_authority(&mut self) -> Result<()> {
        self.stop();
        self.authority = prepare(self.folder.path())?;
        // A client does not reload the CA file while it runs.
        self.admin = Admin::open(&self.kubeconfig()).await?;
        self.start_server().await
    }

    /// Writes an object to etcd directly, without the server's validation.
    pub(super) async fn store_unchecked(&self, object: &Value) -> Result<()> {
        let (resource, namespace, name) = place(object)?;
        let key = [resource.stored, namespace, name].into_iter().filter(|part| !part.is_empty());
        let key = format!("/registry/{}", key.collect::<Vec<_>>().join("/"));
        let base64 = |text: &str| serde_json::to_value(ByteString(text.as_bytes().to_vec()));
        let put = json!({ "key": base64(&key)?, "value": base64(&object.to_string())? });
        post(self.etcd_address, "/v3/kv/put", &put).await.context("storing an object in etcd")
    }

    /// A user's requests so far, from the audit log.
    ///
    /// # Errors
    /// The log is missing or malformed.
    pub fn asked(&self, user: &str) -> Result<Vec<Value>> {
        let log = fs::read_to_string(self.folder.path().join("audit.log"))?;
        let mut asked = Vec::new();
        // The last line may be half written.
        for line in log.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let event: Value = serde_json::from_str(line)?;
            let is_of_user = event.pointer("/user/username").is_some_and(|name| name == user);
            if is_of_user && event.get("responseStatus").is_some() {
                asked.push(event);
            }
        }
        Ok(asked)
    }

    async fn start_server(&mut self) -> Result<()> {
        self.etcd.check().context("etcd")?;
        let program = self.assets.join("kube-apiserver");
        let log = self.folder.path().join("kube-apiserver.log");
        let mut args = server_args(self.folder.path(), self.address, self.etcd_address);
        args.extend(self.extra.iter().cloned());
        let mut server = Program::start(&program, &args, &log)?;
        let deadline = Instant::now() + START_LIMIT * patience();
        while let Err(error) = self.admin.get("/readyz").await {
            server.check().context("kube-apiserver")?;
            if Instant::now() > deadline {
                bail!(
                    "kube-apiserver is not ready: {error:#}; the end of its log:\n{}",
                    server.log_tail()
                );
            }
            sleep(PAUSE).await;
        }
        self.server = Some(server);
        Ok(())
    }
}

/// Makes certificates, keys, and the authentication files.
fn prepare(folder: &Path) -> Result<Authority> {
    let authority = Authority::create()?;
    authority.certify(&folder.join("server.crt"), &folder.join("server.key"))?;
    fs::write(folder.join("ca.crt"), &authority.certificate)?;
    let signing = folder.join("signing.key");
    if !signing.exists() {
        keys::signing_key(&signing, &folder.join("signing.pub"))?;
    }
    fs::write(folder.join("tokens.csv"), format!("{ADMIN_TOKEN},admin,admin,system:masters\n"))?;
    fs::write(folder.join("audit.yaml"), AUDIT_POLICY)?;
    Ok(authority)
}

async fn start_etcd(assets: &Path, folder: &Path) -> Result<(Program, SocketAddr)> {
    let mut outcome = Err(anyhow::anyhow!("etcd was not tried"));
    for _ in 0..N_ATTEMPTS {
        outcome = try_etcd(assets, folder).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn try_etcd(assets: &Path, folder: &Path) -> Result<(Program, SocketAddr)> {
    let (clients, peers) = (free_address()?, free_address()?);
    let args = [
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls=http://{clients}"),
        format!("--advertise-client-urls=http://{clients}"),
        format!("--listen-peer-urls=http://{peers}"),
        format!("--initial-advertise-peer-urls=http://{peers}"),
        format!("--initial-cluster=default=http://{peers}"),
        // Its data need not survive it.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    let mut etcd = Program::start(&assets.join("etcd"), &args, &folder.join("etcd.log"))?;
    let deadline = Instant::now() + START_LIMIT * patience();
    while let Err(error) = post(clients, "/v3/kv/range", &json!({ "key": "YQ==" })).await {
        etcd.check().context("etcd")?;
        ensure!(Instant::now() < deadline, "etcd: {error:#}; its log:\n{}", etcd.log_tail());
        sleep(PAUSE).await;
    }
    Ok((etcd, clients))
}

fn server_args(folder: &Path, address: SocketAddr, etcd: SocketAddr) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    vec![
        format!("--etcd-servers=http://{etcd}"),
        format!("--bind-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
        // The endpoint reconciler rejects loopback addresses, and no test reaches the server through its Service.
        "--advertise-address=192.0.2.1".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        format!("--tls-cert-file={}", file("server.crt")),
        format!("--tls-private-key-file={}", file("server.key")),
        format!("--token-auth-file={}", file("tokens.csv")),
        "--authorization-mode=RBAC".to_owned(),
        "--service-account-issuer=https://netpol.test".to_owned(),
        format!("--service-account-key-file={}", file("signing.pub")),
        format!("--service-account-signing-key-file={}", file("signing.key")),
        // No controller creates the default service account that the plugin would add to pods.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--audit-policy-file={}", file("audit.yaml")),
        format!("--audit-log-path={}", file("audit.log")),
    ]
}

fn admin_kubeconfig(address: SocketAddr, folder: &Path) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "started", "cluster": {
            "server": format!("https://{address}"),
            "certificate-authority": folder.join("ca.crt"),
        } }],
        "users": [{ "name": "admin", "user": { "token": ADMIN_TOKEN } }],
        "contexts": [{ "name": "started", "context": { "cluster": "started", "user": "admin" } }],
        "current-context": "started",
    })
}

/// An address of the loopback interface on which nobody listens.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Asks `etcd` something in JSON.
async fn post(address: SocketAddr, path: &str, body: &Value) -> Result<()> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::post(path)
        .header(http::header::HOST, address.to_string())
        .body(Full::new(Bytes::from(body.to_string())))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let said = answer.into_body().collect().await?.to_bytes();
    ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&said));
    Ok(())
}
