//! The Kubernetes objects of a lab, as files in its manifest directory.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use netpol_policy::model::Kind;
use serde_json::{Value, json};

use super::topology::{NODE, NODE_NAME};

/// Labels, by key.
pub type Labels = BTreeMap<String, String>;

/// Labels from pairs.
pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The directory that the agent watches.
#[derive(Clone, Debug)]
pub struct Manifests {
    folder: PathBuf,
    /// Staging directory on the same file system: files are written here, then renamed.
    drafts: PathBuf,
    /// The API server that mirrors the objects, if there is one.
    api: Option<Arc<dyn Mirror>>,
}

/// An API server that mirrors the objects of the directory.
pub(super) trait Mirror: fmt::Debug + Send + Sync {
    /// Creates or updates an object.
    fn put(&self, object: Value) -> Result<()>;
    /// Deletes an object.
    fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<()>;
}

impl Manifests {
    /// Creates the directory in a folder.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(within: &Path) -> Result<Self> {
        let (folder, drafts) = (within.join("manifests"), within.join("drafts"));
        for path in [&folder, &drafts] {
            fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
        }
        Ok(Self { folder, drafts, api: None })
    }

    /// The directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file atomically.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, file: &str, content: &str) -> Result<()> {
        let draft = self.drafts.join(file);
        fs::write(&draft, content).with_context(|| format!("writing {}", draft.display()))?;
        let path = self.folder.join(file);
        fs::rename(&draft, &path).with_context(|| format!("writing {}", path.display()))?;
        self.mirror(content)
    }

    /// Mirrors all present and future objects to an API server.
    ///
    /// # Errors
    /// A file cannot be read, or holds no objects.
    pub(super) fn mirror_to(&mut self, api: Arc<dyn Mirror>) -> Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            files.push(entry?.path());
        }
        // Namespaces first.
        let is_namespace = |path: &PathBuf| path.to_string_lossy().contains("/namespace-");
        files.sort_by_key(|path| !is_namespace(path));
        self.api = Some(api);
        for file in files {
            self.mirror(&fs::read_to_string(file)?)?;
        }
        Ok(())
    }

    fn mirror(&self, content: &str) -> Result<()> {
        let Some(api) = &self.api else { return Ok(()) };
        for object in documents(content)? {
            // The server of a lab has the kinds that an agent watches.
            if kind(&object).is_some() {
                api.put(object)?;
            }
        }
        Ok(())
    }

    /// Gives the object in a file this annotation in place of any other.
    ///
    /// # Errors
    /// The file has no object, or cannot be written.
    pub fn annotate(&self, file: &str, key: &str, value: &str) -> Result<()> {
        let text = fs::read_to_string(self.folder.join(file))?;
        let mut object: Value = serde_json::from_str(&text)?;
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
        metadata.context("no metadata")?.insert("annotations".to_owned(), json!({ key: value }));
        self.write_object(file, &object)
    }

    /// Removes a file; a missing one is no error.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, file: &str) -> Result<()> {
        if let (Some(api), Ok(content)) = (&self.api, fs::read_to_string(self.folder.join(file))) {
            for object in documents(&content)? {
                let text = |path: &str| {
                    object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
                };
                let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
                if let Some(kind) = kind(&object) {
                    api.delete(kind, &namespace, &name)?;
                }
            }
        }
        match fs::remove_file(self.folder.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {file}"))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Writes an object as indented JSON, which is YAML too.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_object(&self, file: &str, object: &Value) -> Result<()> {
        self.write(file, &format!("{object:#}\n"))
    }
}

fn kind(object: &Value) -> Option<Kind> {
    let kind = object.get("kind")?.as_str()?;
    Kind::ALL.into_iter().find(|known| known.as_str() == kind)
}

fn documents(content: &str) -> Result<Vec<Value>> {
    serde_saphyr::from_multiple(content).context("reading objects")
}

/// The lab's Node object.
pub fn node() -> Value {
    let mut addresses = vec![json!({ "type": "Hostname", "address": NODE_NAME })];
    addresses.extend(NODE.map(|address| json!({ "type": "InternalIP", "address": address })));
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": NODE_NAME },
        "status": { "addresses": addresses },
    })
}

/// A Namespace object, with the label that the API server adds.
pub fn namespace(name: &str, labels: &Labels) -> Value {
    let mut labels = labels.clone();
    labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": name, "labels": labels },
    })
}

/// The chosen properties of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    /// Its namespace, which must exist.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// The ports on which it answers, TCP and UDP.
    pub ports: Vec<u16>,
}

impl PodSpec {
    /// A pod by namespace and name, such as `shop/web`; without a slash it is in the namespace `default`.
    ///
    pub fn new(name: &str, with_labels: &[(&str, &str)], ports: &[u16]) -> Self {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: labels(with_labels),
            ports: ports.to_vec(),
        }
    }

    /// Namespace and name, as [`PodSpec::new`] takes them.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The file of its manifest.
    pub fn file(&self) -> String {
        format!("pod-{}-{}.yaml", self.namespace, self.name)
    }

    /// The Pod object; without addresses until the pod has an interface, as in a cluster.
    pub fn object(&self, uid: &str, addresses: &[IpAddr]) -> Value {
        let Self { namespace, name, labels, ports } = self;
        let ports: Vec<_> = ports.iter().map(|port| json!({ "containerPort": port })).collect();
        let ips: Vec<_> = addresses.iter().map(|address| json!({ "ip": address })).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "namespace": namespace, "name": name, "uid": uid, "labels": labels },
            "spec": {
                "nodeName": NODE_NAME,
                "containers": [{ "name": "probe", "image": "netpol-probe", "ports": ports }],
            },
            "status": {
                "phase": if ips.is_empty() { "Pending" } else { "Running" },
                "podIP": addresses.first(),
                "podIPs": ips,
            },
        })
    }
}
