//! Where objects come from: files, or the cluster of a kubeconfig.
//!
//! In: paths or access. Out: objects, problems, and the text of a policy. Must not: change an object.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::api::GetParams;
use kube::config::Kubeconfig;
use kube::core::Request;
use netpol_policy::manifests::{self, STDIN, files};
use netpol_policy::model::{Kind, ObjectRef};
use serde_json::Value;
use tokio::time::timeout;

use crate::cluster::{self, Live};
use crate::input::{self, Input};
use crate::live::{AccessArgs, block_on};

/// Time limit for reading one policy.
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// The versions of ClusterNetworkPolicy, the best first.
const CLUSTER_POLICIES: [&str; 2] =
    ["/apis/policy.networking.k8s.io/v1beta1", "/apis/policy.networking.k8s.io/v1alpha2"];

/// Fields of metadata that only the API server writes.
const OF_SERVER: [&str; 6] =
    ["managedFields", "uid", "resourceVersion", "generation", "creationTimestamp", "selfLink"];

/// The annotation in which `kubectl apply` keeps what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Where objects come from.
#[derive(Debug)]
pub(super) enum Source {
    /// Files and directories.
    Files(Vec<PathBuf>),
    /// The cluster of a kubeconfig.
    Cluster(AccessArgs),
}

/// The text of an object, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) text: String,
    /// The file and the line in it at which the text begins.
    pub(super) place: Option<String>,
}

impl Source {
    /// Whether it has agents.
    pub(super) const fn is_live(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// What the page calls it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Files(paths) => {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                paths.join(", ")
            }
            Self::Cluster(access) => {
                let (file, context) = access.kubeconfig();
                let current = || {
                    let kubeconfig = file.map_or_else(Kubeconfig::read, Kubeconfig::read_from);
                    kubeconfig.ok()?.current_context
                };
                context.map(str::to_owned).or_else(current).unwrap_or_else(|| "cluster".to_owned())
            }
        }
    }

    /// Reads all objects. Problems that leave some of them out are messages.
    ///
    /// # Errors
    /// A path does not exist, or the objects of the cluster cannot be listed.
    pub(super) fn read(&self) -> anyhow::Result<(Input, Vec<String>)> {
        match self {
            Self::Files(paths) => {
                if let Some(path) = paths.iter().find(|path| !path.exists()) {
                    bail!("{} does not exist", path.display());
                }
                let manifests = manifests::read(paths, &mut io::empty());
                let findings = manifests.findings.iter().map(ToString::to_string);
                let problems = findings.chain(input::not_evaluated(&manifests)).collect();
                Ok((Input::new(manifests, Vec::new(), Vec::new()), problems))
            }
            Self::Cluster(access) => {
                let (kubeconfig, context) = access.kubeconfig();
                let Live { objects, diagnostics, missing } = cluster::read(kubeconfig, context)?;
                let found = diagnostics.iter().map(ToString::to_string);
                let problems = missing.into_iter().chain(found).collect();
                Ok((Input::new(manifests::Manifests::default(), objects, diagnostics), problems))
            }
        }
    }

    /// The text of a policy that `input` contains.
    ///
    /// # Errors
    /// The file or the API server cannot be read.
    pub(super) fn text(&self, input: &Input, policy: &ObjectRef) -> anyhow::Result<Text> {
        match self {
            Self::Files(_) => {
                let place = input.manifests.location_of(policy, "");
                let place = place.with_context(|| format!("{policy} is in no file"))?;
                let text = of_file(&place.file)?;
                let (first, text) = document(&text, place.line);
                let place = format!("{}:{first}", place.file.display());
                Ok(Text { text, place: Some(place) })
            }
            Self::Cluster(access) => {
                let object = block_on(fetch(access, policy))??;
                Ok(Text { text: serde_saphyr::to_string(&as_written(object))?, place: None })
            }
        }
    }
}

fn of_file(path: &Path) -> anyhow::Result<String> {
    if path.as_os_str() == STDIN {
        bail!("the standard input cannot be read again");
    }
    files::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The document of a stream that contains a line, and its first line. Lines count from 1.
fn document(text: &str, line: usize) -> (usize, String) {
    let (mut first, mut document) = (1, String::new());
    for (at, content) in text.lines().enumerate() {
        let is_end = content == "---" || content.starts_with("--- ");
        if is_end && at + 1 > line {
            break;
        }
        if is_end {
            (first, document) = (at + 2, String::new());
        } else {
            document.push_str(content);
            document.push('\n');
        }
    }
    (first, document)
}

/// The object as the API server has it.
async fn fetch(access: &AccessArgs, policy: &ObjectRef) -> anyhow::Result<Value> {
    let client = access.open().await?.client();
    let ObjectRef { kind, name } = policy;
    let folders: Vec<String> = if *kind == Kind::ClusterNetworkPolicy {
        CLUSTER_POLICIES.iter().map(|version| format!("{version}/clusternetworkpolicies")).collect()
    } else {
        vec![format!("/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies", name.namespace)]
    };
    let mut refused = None;
    for folder in folders {
        let request = Request::new(folder).get(&name.name, &GetParams::default())?;
        match timeout(API_TIMEOUT, client.request_text(request)).await {
            Ok(Ok(text)) => return Ok(serde_json::from_str(&text)?),
            Ok(Err(error)) => {
                refused = Some(anyhow::Error::msg(netpol_kube::Error::from(error).to_string()));
            }
            Err(_) => bail!("no answer within {} s", API_TIMEOUT.as_secs()),
        }
    }
    let refused = refused.unwrap_or_else(|| anyhow::Error::msg("there is no such object"));
    Err(refused.context(format!("cannot read {policy}")))
}

/// Without what only the API server writes.
fn as_written(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in OF_SERVER {
                metadata.remove(field);
            }
            let annotations = metadata.get_mut("annotations").and_then(Value::as_object_mut);
            let is_empty = annotations.is_some_and(|annotations| {
                annotations.remove(LAST_APPLIED);
                annotations.is_empty()
            });
            if is_empty {
                metadata.remove("annotations");
            }
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_document_of_an_object_is_found_by_its_line() {
        let text = "# a\na: 1\n---\nb: 2\nc: 3\n--- # last\nd: 4\n";
        for (line, first, expected) in [
            (1, 1, "# a\na: 1\n"),
            (2, 1, "# a\na: 1\n"),
            (4, 4, "b: 2\nc: 3\n"),
            (5, 4, "b: 2\nc: 3\n"),
            (7, 7, "d: 4\n"),
        ] {
            assert_eq!(document(text, line), (first, expected.to_owned()), "{line}");
        }
    }

    #[test]
    fn what_only_the_api_server_writes_is_left_out() {
        let object = json!({
            "apiVersion": "v1", "kind": "K", "status": {}, "spec": { "a": 1 },
            "metadata": {
                "name": "n", "uid": "u", "managedFields": [], "resourceVersion": "1",
                "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "{}" },
            },
        });
        let expected = json!({ "apiVersion": "v1", "kind": "K", "metadata": { "name": "n" }, "spec": { "a": 1 } });
        assert_eq!(as_written(object), expected);
    }
}
