//! An API server for tests that run against each kind of server: one in this process, a real one of the test's own, or
//! that of an existing cluster.
//!
//! In: the environment. With `NETPOL_E2E_KUBECONFIG`, which `cargo xtask e2e` sets, it is the cluster of that kubeconfig;
//! with `KUBEBUILDER_ASSETS` a [`ControlPlane`] of the test's own; else a [`FakeApi`]. Out: a [`Cluster`] with a kubeconfig for
//! the agent, whose connections pass a proxy that can break them. At a real server the agent has the service account of
//! `deploy/base`. Must not: contain expectations about the agent.

mod account;
mod admin;
mod child;
mod control_plane;
mod keys;
mod objects;
mod proxy;
mod run;
mod trouble;

use std::collections::hash_map::RandomState;
use std::fs::OpenOptions;
use std::hash::BuildHasher as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use tempfile::TempDir;
use tokio::runtime::Handle;

pub use self::account::Rules;
pub use self::admin::status_of;
pub use self::control_plane::ControlPlane;
pub use self::run::{Run, Target};

use self::account::Account;
use self::admin::Admin;

use self::proxy::Proxy;
use crate::fake_api::FakeApi;
use crate::node::netns::Netns;

/// The error for such an object.
const UNNAMED: &str = "an object without kind or name";

/// The error at the server in this process, which has no accounts.
const NO_ACCOUNT: &str = "the agent has no account";

/// Label of all cluster-scoped objects that tests create in an existing cluster; its value names the run.
pub const LABEL: &str = "netpol-e2e";

/// A server and the proxy in front of it.
pub struct Cluster {
    server: Server,
    proxy: Proxy,
    /// The network namespace in which the proxy listens, if it is not that of the caller.
    netns: Option<Netns>,
    /// Suffix that makes names unique.
    suffix: String,
    /// Holds the agent's kubeconfig and token.
    folder: TempDir,
    account: Option<Account>,
    n_tokens: usize,
}

/// The kinds of server.
enum Server {
    InProcess(Box<FakeApi>),
    Started(Box<ControlPlane>),
    Given(Box<Admin>),
}

/// A server, for callers that treat all real servers alike.
enum Side<'a> {
    InProcess(&'a FakeApi),
    Real(&'a Admin),
}

/// The result of an operation that not every server supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Able {
    /// It is done.
    Yes,
    /// The server does not support it: `SKIP` and the reason have been printed.
    No,
}

impl Cluster {
    /// The cluster that the environment selects.
    ///
    /// # Errors
    /// A server does not start, or refuses an administrator's request.
    pub async fn open() -> Result<Self> {
        Self::open_in(None).await
    }

    /// The same, for an agent in another network namespace.
    ///
    /// # Errors
    /// Those of [`Cluster::open`].
    pub async fn open_in(netns: Option<Netns>) -> Result<Self> {
        if let Some(kubeconfig) = given() {
            let admin = Box::new(Admin::open(&kubeconfig).await?);
            let endpoint = account::endpoint(&kubeconfig).await?;
            let proxy = open_proxy(endpoint.address, netns.as_ref())?;
            let cluster = Self::over(proxy, netns, Server::Given(admin))?;
            return cluster.with_account(&endpoint.trusted, endpoint.name.as_deref()).await;
        }
        let Some(assets) = control_plane::assets() else {
            return Self::in_process_in(FakeApi::start().await?, netns);
        };
        let plane = Box::new(ControlPlane::start(assets).await?);
        let proxy = open_proxy(plane.address(), netns.as_ref())?;
        let trusted = plane.trusted().to_owned();
        let cluster = Self::over(proxy, netns, Server::Started(plane))?;
        cluster.with_account(&trusted, None).await
    }

    fn over(proxy: Proxy, netns: Option<Netns>, server: Server) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let suffix = format!("e2e-{:08x}", RandomState::new().hash_one(0_u8) >> 32);
        Ok(Self { server, proxy, netns, suffix, folder, account: None, n_tokens: 0 })
    }

    /// A server in this process, whatever the environment says.
    ///
    /// # Errors
    /// No socket is available.
    pub fn in_process(api: FakeApi) -> Result<Self> {
        Self::in_process_in(api, None)
    }

    fn in_process_in(api: FakeApi, netns: Option<Netns>) -> Result<Self> {
        let proxy = open_proxy(api.address(), netns.as_ref())?;
        let url = format!("http://{}", proxy.address());
        api.require_token("token-1");
        let mut cluster = Self::over(proxy, netns, Server::InProcess(Box::new(api)))?;
        cluster.n_tokens = 1;
        account::write_token(cluster.folder.path(), "token-1")?;
        account::write_kubeconfig(cluster.folder.path(), &url, "", None)?;
        Ok(cluster)
    }

    async fn with_account(mut self, trusted: &str, server_name: Option<&str>) -> Result<Self> {
        let url = format!("https://{}", self.proxy.address());
        account::write_kubeconfig(self.folder.path(), &url, trusted, server_name)?;
        let account = Account::named(&self.name("netpol"), &self.suffix);
        for object in account.objects()? {
            self.put(object).await?;
        }
        self.account = Some(account);
        self.renew_token().await?;
        Ok(self)
    }

    /// A name that no other cluster of a test has, such as that of a namespace.
    pub fn name(&self, stem: &str) -> String {
        format!("{stem}-{}", self.suffix)
    }

    /// The agent's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// The server, if it runs in this process.
    pub fn as_in_process(&self) -> Option<&FakeApi> {
        match &self.server {
            Server::InProcess(api) => Some(api),
            Server::Started(_) | Server::Given(_) => None,
        }
    }

    /// The real server, if the test started it; else prints that the test is skipped.
    pub fn as_started(&mut self) -> Option<&mut ControlPlane> {
        match &mut self.server {
            Server::Started(plane) => Some(plane),
            Server::InProcess(_) | Server::Given(_) => {
                skip("needs a kube-apiserver of its own: KUBEBUILDER_ASSETS");
                None
            }
        }
    }

    /// The agent's user name at a real server.
    pub fn user(&self) -> Option<String> {
        self.account.as_ref().map(Account::user)
    }

    /// The namespace of the agent at a real server.
    pub fn agent_namespace(&self) -> Option<&str> {
        self.account.as_ref().map(Account::namespace)
    }

    /// The server, for callers that treat all real servers alike.
    fn side(&self) -> Side<'_> {
        match &self.server {
            Server::InProcess(api) => Side::InProcess(api),
            Server::Started(plane) => Side::Real(plane.admin()),
            Server::Given(admin) => Side::Real(admin),
        }
    }
}

/// The kubeconfig of an existing cluster.
fn given() -> Option<PathBuf> {
    let path = std::env::var_os("NETPOL_E2E_KUBECONFIG").filter(|path| !path.is_empty());
    path.map(PathBuf::from)
}

/// Reports a skipped test.
#[expect(
    clippy::print_stdout,
    reason = "the reader of a test's output must see what was not tested"
)]
pub fn skip(reason: &str) {
    println!("SKIP: {reason}");
    // nextest hides the output of passed tests, so the run collects the reasons in a file.
    if let Some(report) = std::env::var_os("NETPOL_E2E_SKIPPED") {
        let test = std::thread::current();
        let line = format!("{}: {reason}\n", test.name().unwrap_or("a test"));
        let file = OpenOptions::new().create(true).append(true).open(report);
        // Without the file the reason is missing from the report, which fails no test.
        drop(file.and_then(|mut file| file.write_all(line.as_bytes())));
    }
}

fn unable(reason: &str) -> Able {
    skip(reason);
    Able::No
}

/// The proxy's sockets belong to the namespace of the thread that opens them.
fn open_proxy(server: SocketAddr, netns: Option<&Netns>) -> Result<Proxy> {
    let runtime = Handle::current();
    let open = || Ok(Proxy::open(server, &runtime)?);
    match netns {
        Some(netns) => netns.inside(open),
        None => open(),
    }
}

/// The certificate of an authority that has signed nothing, as PEM.
///
/// # Errors
/// No key can be made.
pub fn idle_authority() -> Result<String> {
    Ok(keys::Authority::create()?.certificate)
}
