//! A test run against an existing cluster: which cluster it is, and how the test objects are removed afterwards.
//!
//! All cluster-scoped test objects have [`LABEL`] with the run's name, so they can be found and removed without a record.

use std::collections::hash_map::RandomState;
use std::env;
use std::hash::BuildHasher as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::time::{Instant, sleep};

use super::LABEL;
use super::admin::{Admin, collection, status_of};
use crate::settings::patience;

/// How long namespaces may take to go.
const REMOVAL_LIMIT: Duration = Duration::from_mins(2);

/// Polling interval.
const PAUSE: Duration = Duration::from_millis(500);

/// Cluster-scoped kinds. Deleting a namespace deletes all objects in it.
const KINDS: [&str; 4] = ["Namespace", "Node", "ClusterRole", "ClusterRoleBinding"];

/// A cluster, as its kubeconfig describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The file.
    pub kubeconfig: PathBuf,
    /// Its current context.
    pub context: String,
    /// URL of the API server.
    pub server: String,
}

impl Target {
    /// The cluster of a kubeconfig: this one, else that of `$KUBECONFIG`, else `~/.kube/config`.
    ///
    /// # Errors
    /// There is no such file, or it names no server.
    pub async fn find(kubeconfig: Option<&Path>) -> Result<Self> {
        let kubeconfig = match kubeconfig {
            Some(path) => path.to_owned(),
            None => by_environment()?,
        };
        let read = Kubeconfig::read_from(&kubeconfig)?;
        let context =
            read.current_context.clone().context("the kubeconfig has no current context")?;
        let config =
            kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        Ok(Self { kubeconfig, context, server: config.cluster_url.to_string() })
    }
}

fn by_environment() -> Result<PathBuf> {
    if let Some(paths) = env::var_os("KUBECONFIG").filter(|paths| !paths.is_empty()) {
        let paths: Vec<_> = env::split_paths(&paths).collect();
        let [path] = &paths[..] else { bail!("KUBECONFIG names {} files, not one", paths.len()) };
        return Ok(path.clone());
    }
    let home = env::home_dir().context("neither --kubeconfig nor KUBECONFIG nor a home")?;
    Ok(home.join(".kube/config"))
}

/// A test run in a cluster.
pub struct Run {
    admin: Admin,
    /// The value of [`LABEL`].
    pub name: String,
}

impl Run {
    /// Begins a run. Creates nothing yet.
    ///
    /// # Errors
    /// The server cannot be reached, or the user lacks a permission that the tests need.
    pub async fn begin(target: &Target) -> Result<Self> {
        let admin = Admin::open(&target.kubeconfig).await?;
        for kind in KINDS {
            ensure!(
                admin.may("create", kind).await?,
                "the user of the context may not create a {kind}"
            );
        }
        let name = format!("run-{:08x}", RandomState::new().hash_one(0_u8) >> 32);
        Ok(Self { admin, name })
    }

    /// The version that the server has.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn server_version(&self) -> Result<String> {
        let version: serde_json::Value = serde_json::from_str(&self.admin.get("/version").await?)?;
        Ok(version.get("gitVersion").and_then(|text| text.as_str()).unwrap_or("unknown").to_owned())
    }

    /// Removes all that the run has made, and waits until it is gone.
    ///
    /// # Errors
    /// The server refuses, or objects remain: the message names them.
    pub async fn end(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVAL_LIMIT * patience();
        loop {
            let mut left = Vec::new();
            for kind in KINDS {
                left.extend(self.remove(kind).await?);
            }
            if left.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "these are still there: {}", left.join(", "));
            sleep(PAUSE).await;
        }
    }

    /// Deletes all of the run's objects of a kind and returns their names.
    async fn remove(&self, kind: &str) -> Result<Vec<String>> {
        let path = collection(kind, "")?;
        let found =
            self.admin.list(&format!("{path}?labelSelector={LABEL}%3D{}", self.name)).await?;
        let mut left = Vec::new();
        for object in found {
            let text = |place: &str| {
                object.pointer(place).and_then(|text| text.as_str()).unwrap_or_default().to_owned()
            };
            let name = text("/metadata/name");
            if text("/metadata/deletionTimestamp").is_empty() {
                match self.admin.delete_at(&format!("{path}/{name}")).await {
                    Err(error) if status_of(&error) != Some(404) => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
            left.push(format!("{kind} {name}"));
        }
        Ok(left)
    }
}
