//! Lists and watches the objects of all nodes. An address that is not known yet is known later, from the pod's status.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::{KEY, LABEL, NAMESPACE, text};
use crate::Options;
use crate::access::Access;
use crate::background;
use crate::decode::Event;
use crate::failure::Failure;
use crate::request::Selection;
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::{Delta, PublishedPod};

/// The nodes that publish something, as far as it was sent on.
#[derive(Debug, Default)]
pub struct Followed {
    nodes: BTreeSet<Arc<str>>,
}

#[derive(Deserialize)]
pub(crate) struct ConfigMap {
    metadata: Metadata,
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Arc<str>,
    #[serde(default)]
    resource_version: String,
}

impl ConfigMap {
    fn pods(&self) -> Vec<PublishedPod> {
        let said = self.data.as_ref().and_then(|data| data.get(KEY));
        said.map(|said| text::read(said)).unwrap_or_default()
    }
}

/// Sends what nodes publish to `out`, until the receiving end is dropped. `followed` keeps which nodes have said something, so that
/// [`Followed::forget`] can take it back.
pub async fn follow(
    access: Access,
    options: &Options,
    out: &mpsc::Sender<SourceUpdate>,
    followed: &mut Followed,
) {
    background::follow(access, options, out, followed).await;
}

impl background::Followed for Followed {
    type Object = ConfigMap;

    fn selection() -> Selection {
        let [label, value] = LABEL;
        Selection {
            path: format!("/api/v1/namespaces/{NAMESPACE}/configmaps"),
            fields: None,
            labels: Some(format!("{label}={value}")),
        }
    }

    fn version(object: &ConfigMap) -> &str {
        &object.metadata.resource_version
    }

    fn replace(&mut self, objects: Vec<ConfigMap>) -> Vec<Delta> {
        let mut gone = self.nodes.clone();
        let mut deltas = Vec::new();
        for object in objects {
            gone.remove(&object.metadata.name);
            deltas.extend(self.apply(&object.metadata.name, object.pods()));
        }
        deltas.extend(gone.into_iter().filter_map(|node| self.apply(&node, Vec::new())));
        info!(n_nodes = self.nodes.len(), "published addresses listed");
        deltas
    }

    fn change(&mut self, event: Event, object: ConfigMap) -> Vec<Delta> {
        let pods = if event == Event::Deleted { Vec::new() } else { object.pods() };
        self.apply(&object.metadata.name, pods).into_iter().collect()
    }

    fn report(failure: &Failure) {
        debug!(%failure, "published addresses are listed again");
    }
}

impl Followed {
    /// Takes back everything that was sent.
    pub async fn forget(&mut self, out: &mpsc::Sender<SourceUpdate>) {
        let nodes = std::mem::take(&mut self.nodes);
        let deltas: Vec<Delta> = nodes.into_iter().map(|node| silence(&node)).collect();
        if !deltas.is_empty() {
            // If the event loop has ended, nobody believes anything.
            drop(out.send(SourceUpdate { deltas, ..SourceUpdate::default() }).await);
        }
    }

    /// The change, if there is one: a node that goes on saying nothing is none.
    fn apply(&mut self, node: &Arc<str>, pods: Vec<PublishedPod>) -> Option<Delta> {
        if pods.is_empty() {
            return self.nodes.remove(node).then(|| silence(node));
        }
        self.nodes.insert(Arc::clone(node));
        Some(Delta::PublishedAddresses { node: Arc::clone(node), pods })
    }
}

fn silence(node: &Arc<str>) -> Delta {
    Delta::PublishedAddresses { node: Arc::clone(node), pods: Vec::new() }
}
