//! Which pods a command is about: `-n`, `-A`, `-l`, or one pod.
//!
//! In: options, and the cluster for labels. Out: whether a pod is meant. Must not: list pods unless labels are given.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use netpol_policy::model::ObjectName;

use super::cluster::{Cluster, message, within};

/// Time limit for a list.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Which pods.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SelectionArgs {
    /// Namespace of the pods [default: that of the context].
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// Pods of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only pods with these labels, as for kubectl: `app=web,tier!=db`.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
}

/// The selected pods.
pub(super) struct Selection {
    cluster: Cluster,
    namespace: Option<String>,
    pod: Option<ObjectName>,
    selector: Option<String>,
    /// Whether each known pod has the labels.
    has_labels: BTreeMap<ObjectName, bool>,
    words: String,
}

impl Selection {
    /// The pods that the options select; with `pod`, only this one.
    ///
    /// # Errors
    /// The pod's name is not valid, or pods with the labels cannot be listed.
    pub(super) async fn new(
        cluster: &Cluster,
        args: &SelectionArgs,
        pod: Option<&str>,
    ) -> anyhow::Result<Self> {
        let SelectionArgs { namespace, all_namespaces, selector } = args;
        let pod = pod.map(|pod| cluster.pod_name(pod, namespace.as_deref())).transpose()?;
        let default = namespace.as_deref().unwrap_or_else(|| cluster.default_namespace());
        let namespace = match &pod {
            Some(pod) => Some(pod.namespace.to_string()),
            None => (!all_namespaces).then(|| default.to_owned()),
        };
        let words = match (&pod, &namespace) {
            (Some(pod), _) => format!("of pod {pod}"),
            (None, Some(namespace)) => format!("in namespace {namespace}; -A is all namespaces"),
            (None, None) => "in any namespace".to_owned(),
        };
        let mut selection = Self {
            cluster: cluster.clone(),
            namespace,
            pod,
            selector: selector.clone(),
            has_labels: BTreeMap::new(),
            words,
        };
        if selection.selector.is_some() {
            for name in selection.list(None).await? {
                selection.has_labels.insert(name, true);
            }
        }
        Ok(selection)
    }

    /// What is selected, for messages: `in namespace shop`.
    pub(super) fn in_words(&self) -> &str {
        &self.words
    }

    /// The namespace of the selected pods; `None`: all of them.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Whether one of these pods is selected.
    pub(super) async fn has_any(&mut self, names: [Option<&ObjectName>; 2]) -> bool {
        for name in names.into_iter().flatten() {
            if self.has(name).await {
                return true;
            }
        }
        // Nobody knows whose it was.
        names == [None, None] && self.is_everything()
    }

    const fn is_everything(&self) -> bool {
        self.namespace.is_none() && self.pod.is_none() && self.selector.is_none()
    }

    async fn has(&mut self, name: &ObjectName) -> bool {
        let is_named = self.pod.as_ref().is_none_or(|pod| pod == name)
            && self.namespace.as_deref().is_none_or(|namespace| *namespace == *name.namespace);
        if !is_named || self.selector.is_none() {
            return is_named;
        }
        if let Some(has) = self.has_labels.get(name) {
            return *has;
        }
        // A pod that is younger than the list. One that is gone has no labels any more.
        let found = self.list(Some(&name.name)).await.unwrap_or_default();
        let has = found.contains(name);
        self.has_labels.insert(name.clone(), has);
        has
    }

    async fn list(&self, name: Option<&str>) -> anyhow::Result<Vec<ObjectName>> {
        let client = self.cluster.client.clone();
        let pods = match &self.namespace {
            Some(namespace) => Api::<Pod>::namespaced(client, namespace),
            None => Api::<Pod>::all(client),
        };
        let labels = self.selector.as_deref().unwrap_or_default();
        let mut params = ListParams::default().labels(labels);
        if let Some(name) = name {
            params = params.fields(&format!("metadata.name={name}"));
        }
        let listed = within(TIMEOUT, pods.list_metadata(&params)).await;
        let listed = listed
            .map_err(|error| message(&error))
            .with_context(|| format!("cannot list pods with --selector {labels}"))?;
        let names = listed
            .items
            .into_iter()
            .filter_map(|pod| Some(ObjectName::new(&pod.metadata.namespace?, &pod.metadata.name?)));
        Ok(names.collect())
    }
}
