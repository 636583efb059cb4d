//! An API server for tests that ask the same of every one: the one in this process, a real one of their own, or one that
//! is there already.
//!
//! In: the environment. With `NETPOL_E2E_KUBECONFIG`, which `cargo xtask e2e` sets, it is the cluster of that kubeconfig;
//! with `KUBEBUILDER_ASSETS` a [`ControlPlane`] of the test's own; else a [`FakeApi`]. Out: a [`Cluster`], which an agent
//! reaches by a kubeconfig of its own, over a way that can be cut, and at a real server as the service account of
//! `deploy/base`. Must not: know what the agent ought to do.

mod account;
mod admin;
mod child;
mod control_plane;
mod keys;
mod objects;
mod run;
mod trouble;
mod way;

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

use self::way::Way;
use crate::fake_api::FakeApi;
use crate::node::netns::Netns;

/// What cannot be put anywhere.
const UNNAMED: &str = "an object without kind or name";

/// Only a server in this process has no accounts.
const NO_ACCOUNT: &str = "the agent has no account";

/// The label of all that is made in a cluster that is there already and belongs to no namespace; its value is the run's.
pub const LABEL: &str = "netpol-e2e";

/// A server, and the way to it.
pub struct Cluster {
    server: Server,
    way: Way,
    /// The network namespace in which the way begins, if it is not that of the caller.
    netns: Option<Netns>,
    /// The end of every name that others could have too.
    suffix: String,
    /// Holds the agent's kubeconfig and token.
    folder: TempDir,
    account: Option<Account>,
    n_tokens: usize,
}

/// What answers.
enum Server {
    InProcess(Box<FakeApi>),
    Started(Box<ControlPlane>),
    Given(Box<Admin>),
}

/// A server, as those see it who do not care which real one it is.
enum Side<'a> {
    InProcess(&'a FakeApi),
    Real(&'a Admin),
}

/// Whether a server can do what only some can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Able {
    /// It is done.
    Yes,
    /// It was not done: `SKIP` and the reason have been printed.
    No,
}

impl Cluster {
    /// The cluster that the environment asks for.
    ///
    /// # Errors
    /// A server does not start, or does not do what an administrator asks.
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
            let way = open_way(endpoint.address, netns.as_ref())?;
            let cluster = Self::over(way, netns, Server::Given(admin))?;
            return cluster.with_account(&endpoint.trusted, endpoint.name.as_deref()).await;
        }
        let Some(assets) = control_plane::assets() else {
            return Self::in_process_in(FakeApi::start().await?, netns);
        };
        let plane = Box::new(ControlPlane::start(assets).await?);
        let way = open_way(plane.address(), netns.as_ref())?;
        let trusted = plane.trusted().to_owned();
        let cluster = Self::over(way, netns, Server::Started(plane))?;
        cluster.with_account(&trusted, None).await
    }

    fn over(way: Way, netns: Option<Netns>, server: Server) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let suffix = format!("e2e-{:08x}", RandomState::new().hash_one(0_u8) >> 32);
        Ok(Self { server, way, netns, suffix, folder, account: None, n_tokens: 0 })
    }

    /// A server in this process, whatever the environment says.
    ///
    /// # Errors
    /// No socket can be had.
    pub fn in_process(api: FakeApi) -> Result<Self> {
        Self::in_process_in(api, None)
    }

    fn in_process_in(api: FakeApi, netns: Option<Netns>) -> Result<Self> {
        let way = open_way(api.address(), netns.as_ref())?;
        let url = format!("http://{}", way.address());
        api.require_token("token-1");
        let mut cluster = Self::over(way, netns, Server::InProcess(Box::new(api)))?;
        cluster.n_tokens = 1;
        account::write_token(cluster.folder.path(), "token-1")?;
        account::write_kubeconfig(cluster.folder.path(), &url, "", None)?;
        Ok(cluster)
    }

    async fn with_account(mut self, trusted: &str, server_name: Option<&str>) -> Result<Self> {
        let url = format!("https://{}", self.way.address());
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

    /// The server in this process, if that is what it is.
    pub fn as_in_process(&self) -> Option<&FakeApi> {
        match &self.server {
            Server::InProcess(api) => Some(api),
            Server::Started(_) | Server::Given(_) => None,
        }
    }

    /// The real server of the test's own, if that is what it is; else says that the test is not run.
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

    /// The server, as those see it who do not care which real one it is.
    fn side(&self) -> Side<'_> {
        match &self.server {
            Server::InProcess(api) => Side::InProcess(api),
            Server::Started(plane) => Side::Real(plane.admin()),
            Server::Given(admin) => Side::Real(admin),
        }
    }
}

/// The kubeconfig of a cluster that is there already.
fn given() -> Option<PathBuf> {
    let path = std::env::var_os("NETPOL_E2E_KUBECONFIG").filter(|path| !path.is_empty());
    path.map(PathBuf::from)
}

/// Says that something is not tested here.
#[expect(
    clippy::print_stdout,
    reason = "the reader of a test's output must see what was not tested"
)]
pub fn skip(reason: &str) {
    println!("SKIP: {reason}");
    // What a test that passed has printed is not shown: the run's own report is.
    if let Some(report) = std::env::var_os("NETPOL_E2E_SKIPPED") {
        let test = std::thread::current();
        let line = format!("{}: {reason}\n", test.name().unwrap_or("a test"));
        let file = OpenOptions::new().create(true).append(true).open(report);
        // A report that cannot be written is missed by whoever reads it.
        drop(file.and_then(|mut file| file.write_all(line.as_bytes())));
    }
}

fn unable(reason: &str) -> Able {
    skip(reason);
    Able::No
}

/// The sockets of a way belong to the namespace of the thread that makes them.
fn open_way(server: SocketAddr, netns: Option<&Netns>) -> Result<Way> {
    let runtime = Handle::current();
    let open = || Ok(Way::open(server, &runtime)?);
    match netns {
        Some(netns) => netns.inside(open),
        None => open(),
    }
}
