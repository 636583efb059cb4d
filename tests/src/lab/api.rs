//! An API server on the lab's node, in the place of the directory of manifests.

use std::fs;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::runtime::Runtime;

use super::Lab;
use crate::fake_api::FakeApi;

/// The server, with what runs it.
#[derive(Debug)]
pub(super) struct ApiServer {
    api: Arc<FakeApi>,
    _runtime: Runtime,
}

impl Lab {
    /// Starts an API server on the node, with all objects that there are. From now on it has every object that is written
    /// to the manifests, and the next agent listens to it alone.
    ///
    /// # Errors
    /// It cannot be started, or an object that exists is no object.
    pub fn start_api_server(&mut self) -> Result<Arc<FakeApi>> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("starting the async runtime")?;
        // The socket belongs to the namespace of the thread that makes it.
        let start = || Ok(runtime.block_on(FakeApi::start())?);
        let api = Arc::new(self.topology.node.inside(start).context("starting the API server")?);
        let kubeconfig = self.folder().join("kubeconfig");
        fs::write(&kubeconfig, api.kubeconfig(&json!({})))
            .with_context(|| format!("writing {}", kubeconfig.display()))?;
        self.place.kubeconfig = Some(kubeconfig);
        self.manifests.mirror_to(Arc::clone(&api))?;
        self.api = Some(ApiServer { api: Arc::clone(&api), _runtime: runtime });
        Ok(api)
    }

    /// The API server, if there is one.
    pub fn shared_api(&self) -> Option<Arc<FakeApi>> {
        self.api.as_ref().map(|server| Arc::clone(&server.api))
    }
}
