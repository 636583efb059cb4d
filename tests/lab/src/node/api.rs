//! An API server on the lab's node, instead of the manifest directory.

use std::fmt;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use netpol_policy::model::Kind;
use serde_json::{Value, json};
use tokio::runtime::{Handle, Runtime};

use super::Lab;
use super::objects::Mirror;
use crate::cluster::Cluster;
use crate::fake_api::FakeApi;

/// The server and its runtime.
#[derive(Debug)]
pub(super) struct ApiServer {
    api: Served,
    runtime: Runtime,
}

#[derive(Debug)]
enum Served {
    Directly(Arc<FakeApi>),
    Cluster(Arc<SharedCluster>),
}

/// A cluster shared by threads.
struct SharedCluster {
    cluster: Mutex<Cluster>,
    runtime: Handle,
}

impl SharedCluster {
    fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SharedCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCluster").finish_non_exhaustive()
    }
}

impl Mirror for FakeApi {
    fn put(&self, object: Value) -> Result<()> {
        Self::put(self, object).map(drop).context("an object without kind or name")
    }

    fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<()> {
        // An object that is deleted already is no error.
        Self::delete(self, kind, namespace, name);
        Ok(())
    }
}

impl Mirror for SharedCluster {
    fn put(&self, object: Value) -> Result<()> {
        self.runtime.block_on(self.lock().put(object))
    }

    fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<()> {
        self.runtime.block_on(self.lock().delete(kind, namespace, name))
    }
}

impl Lab {
    /// Starts an API server on the node with all current objects. From now on it gets every object that is written to the
    /// manifests, and the next agent watches only the server.
    ///
    /// # Errors
    /// It cannot be started, or a manifest is invalid.
    pub fn start_api_server(&mut self) -> Result<Arc<FakeApi>> {
        let runtime = runtime()?;
        // The socket belongs to the network namespace of the thread that opens it.
        let start = || Ok(runtime.block_on(FakeApi::start())?);
        let api = Arc::new(self.topology.node.inside(start).context("starting the API server")?);
        let kubeconfig = self.folder().join("kubeconfig");
        fs::write(&kubeconfig, api.kubeconfig(&json!({})))
            .with_context(|| format!("writing {}", kubeconfig.display()))?;
        self.agent_config.kubeconfig = Some(kubeconfig);
        self.manifests.mirror_to(Arc::<FakeApi>::clone(&api))?;
        self.api = Some(ApiServer { api: Served::Directly(Arc::clone(&api)), runtime });
        Ok(api)
    }

    /// The API server of [`Lab::start_api_server`], if there is one.
    pub fn shared_api(&self) -> Option<Arc<FakeApi>> {
        match &self.api.as_ref()?.api {
            Served::Directly(api) => Some(Arc::clone(api)),
            Served::Cluster(_) => None,
        }
    }

    /// The same with the cluster that the environment selects, for [`Lab::with_cluster`].
    ///
    /// # Errors
    /// Those of [`Cluster::open`] and [`Lab::start_api_server`].
    pub fn start_cluster(&mut self) -> Result<()> {
        let runtime = runtime()?;
        let node = self.topology.node.clone();
        let cluster = runtime.block_on(Cluster::open_in(Some(node)))?;
        self.agent_config.kubeconfig = Some(cluster.kubeconfig());
        let handle = runtime.handle().clone();
        let shared = Arc::new(SharedCluster { cluster: Mutex::new(cluster), runtime: handle });
        self.manifests.mirror_to(Arc::<SharedCluster>::clone(&shared))?;
        self.api = Some(ApiServer { api: Served::Cluster(shared), runtime });
        Ok(())
    }

    /// Runs `deed` with the cluster of [`Lab::start_cluster`].
    ///
    /// # Errors
    /// There is none, or the error of `deed`.
    pub fn with_cluster<T>(&self, deed: impl AsyncFnOnce(&mut Cluster) -> Result<T>) -> Result<T> {
        let server = self.api.as_ref().context("no API server")?;
        let Served::Cluster(shared) = &server.api else { bail!("no cluster") };
        let mut cluster = shared.lock();
        server.runtime.block_on(deed(&mut cluster))
    }

    /// Whether the lab's files are all objects. In a cluster there may be others.
    pub(super) const fn has_only_files(&self) -> bool {
        !matches!(self.api, Some(ApiServer { api: Served::Cluster(_), .. }))
    }

    /// The uid that the cluster assigned to a pod.
    pub(super) fn uid_in_cluster(&self, namespace: &str, name: &str) -> Option<String> {
        let read = async |cluster: &mut Cluster| cluster.get(Kind::Pod, namespace, name).await;
        let pod = self.with_cluster(read).ok()?;
        pod.pointer("/metadata/uid").and_then(Value::as_str).map(str::to_owned)
    }

    /// Makes the API server unreachable while `deed` runs.
    ///
    /// # Errors
    /// There is none, its port cannot be bound again, or the error of `deed`.
    pub fn without_api_server<T>(&self, deed: impl FnOnce() -> Result<T>) -> Result<T> {
        let server = self.api.as_ref().context("no API server")?;
        let Served::Directly(api) = &server.api else { bail!("a cluster is closed by itself") };
        api.stop();
        let outcome = deed();
        self.topology.node.inside(|| Ok(api.start_again()?)).context("starting the API server")?;
        outcome
    }
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("starting the async runtime")
}
