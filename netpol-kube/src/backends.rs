//! Lists and watches the `EndpointSlices` that no controller writes from a selector: those of Services without one, such as that of the API
//! server.
//!
//! In: slices. Out: [`Delta::ListedBackends`] with the backends of all of them, when they differ from before. Needed only where connections
//! of pods to their own node need a rule. Until the first list such Services have unknown backends.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Options;
use super::access::Access;
use super::background;
use super::decode::Event;
use super::failure::Failure;
use super::request::Selection;
use netpol_policy::model::convert::{ListedBackends, listed_backends};
use netpol_policy::model::{ObjectName, ServiceBackend};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::Delta;

/// The slices that count: the controller writes the others from the pods that a Service selects, which are known.
const NOT_BY_CONTROLLER: &str =
    "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io";

/// The slices, by namespace and name.
#[derive(Debug, Default)]
struct Slices {
    by_name: BTreeMap<ObjectName, ListedBackends>,
    sent: Option<BTreeMap<ObjectName, BTreeSet<ServiceBackend>>>,
}

/// Sends the backends to `out` until the receiving end is dropped.
pub async fn follow_backends(access: Access, options: Options, out: mpsc::Sender<SourceUpdate>) {
    background::follow(access, &options, &out, &mut Slices::default()).await;
}

impl background::Followed for Slices {
    type Object = Value;

    fn selection() -> Selection {
        Selection {
            path: "/apis/discovery.k8s.io/v1/endpointslices".to_owned(),
            fields: None,
            labels: Some(NOT_BY_CONTROLLER.to_owned()),
        }
    }

    fn version(slice: &Value) -> &str {
        metadata(slice, "resourceVersion")
    }

    fn replace(&mut self, slices: Vec<Value>) -> Vec<Delta> {
        let named = slices.into_iter().filter_map(|slice| Some((name(&slice), read(slice)?)));
        self.by_name = named.collect();
        info!(n_slices = self.by_name.len(), "EndpointSlices without a controller listed");
        self.changes()
    }

    fn change(&mut self, event: Event, slice: Value) -> Vec<Delta> {
        let name = name(&slice);
        match read(slice).filter(|_| event != Event::Deleted) {
            Some(listed) => drop(self.by_name.insert(name, listed)),
            None => drop(self.by_name.remove(&name)),
        }
        self.changes()
    }

    fn report(failure: &Failure) {
        warn!(%failure, "EndpointSlices are listed again");
    }
}

impl Slices {
    /// The backends of all slices, if they differ from what was sent last.
    fn changes(&mut self) -> Vec<Delta> {
        let mut backends: BTreeMap<ObjectName, BTreeSet<ServiceBackend>> = BTreeMap::new();
        for ListedBackends { service, backends: listed } in self.by_name.values() {
            backends.entry(service.clone()).or_default().extend(listed.iter().cloned());
        }
        if self.sent.as_ref() == Some(&backends) {
            return Vec::new();
        }
        self.sent = Some(backends.clone());
        vec![Delta::ListedBackends(backends)]
    }
}

/// A text of the metadata; empty if there is none.
fn metadata<'a>(slice: &'a Value, field: &str) -> &'a str {
    let found = slice.get("metadata").and_then(|metadata| metadata.get(field));
    found.and_then(Value::as_str).unwrap_or_default()
}

fn name(slice: &Value) -> ObjectName {
    ObjectName::new(metadata(slice, "namespace"), metadata(slice, "name"))
}

/// What a slice lists. The items of a list do not say what they are.
fn read(mut slice: Value) -> Option<ListedBackends> {
    let fields = slice.as_object_mut()?;
    fields.insert("apiVersion".to_owned(), Value::from("discovery.k8s.io/v1"));
    fields.insert("kind".to_owned(), Value::from("EndpointSlice"));
    listed_backends(&slice)
}
