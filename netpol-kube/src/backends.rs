//! Lists and watches the `EndpointSlices` that no controller writes from a selector: those of Services without one, such as that of the API
//! server.
//!
//! In: slices. Out: [`Delta::ListedBackends`] with the backends of all of them, when they differ from before. Needed only where connections
//! of pods to their own node need a rule. Until the first list such Services have unknown backends, so nothing waits for it. After any
//! failure the list is read again, and what was listed before counts until then.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::Options;
use super::access::{Access, Error};
use super::failure::{Failure, MIN_WATCH};
use super::notice;
use super::request::{self, End, Selection};
use super::retry::{Retry, spread};
use netpol_policy::model::convert::{ListedBackends, listed_backends};
use netpol_policy::model::{ObjectName, ServiceBackend};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::Delta;

/// The duration that a watch request asks for, before up to a quarter is added.
const WATCH: Duration = Duration::from_mins(8);

/// The slices that count: the controller writes the others from the pods that a Service selects, which are known.
const NOT_BY_CONTROLLER: &str =
    "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io";

/// The slices, by namespace and name.
#[derive(Debug, Default)]
struct Slices {
    by_name: BTreeMap<ObjectName, ListedBackends>,
    sent: Option<BTreeMap<ObjectName, BTreeSet<ServiceBackend>>>,
}

/// Why following ended.
enum Stop {
    Failed(Failure),
    /// The receiving end was dropped.
    Stopped,
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(failure: E) -> Self {
        Self::Failed(failure.into())
    }
}

#[derive(Deserialize)]
struct List {
    metadata: Metadata,
    #[serde(default)]
    items: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    namespace: String,
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// A line of the watch.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type", borrow)]
    event: Cow<'a, str>,
    object: Value,
}

/// Sends the backends to `out` until the receiving end is dropped.
pub async fn follow_backends(access: Access, options: Options, out: mpsc::Sender<SourceUpdate>) {
    let mut slices = Slices::default();
    let mut retry = Retry::new(options.min_retry, options.max_retry);
    loop {
        let latest = access.latest();
        let began = Instant::now();
        let failure = match slices.follow(&latest.client, &options, &out).await {
            Ok(never) => match never {},
            Err(Stop::Stopped) => return,
            Err(Stop::Failed(failure)) => failure,
        };
        if began.elapsed() >= MIN_WATCH {
            retry.reset();
        }
        warn!(%failure, "EndpointSlices are listed again");
        sleep(retry.next_delay()).await;
        if failure.wants_new_client() {
            // The next attempt uses the newest client in any case.
            drop(access.renew(latest.number).await);
        }
    }
}

impl Slices {
    async fn follow(
        &mut self,
        client: &kube::Client,
        options: &Options,
        out: &mpsc::Sender<SourceUpdate>,
    ) -> Result<Infallible, Stop> {
        let mut version = self.list(client, options).await?;
        self.send(out).await?;
        loop {
            let began = Instant::now();
            let mut lines =
                request::watch_at(client, selection(), Some(&version), spread(WATCH)).await?;
            loop {
                let line = match timeout(options.patience, lines.next()).await {
                    Ok(Ok(line)) => line,
                    // The server ends watches after a time.
                    Ok(Err(End::Closed)) if began.elapsed() >= MIN_WATCH => break,
                    Ok(Err(end)) => return Err(end.into()),
                    Err(_elapsed) => return Err(Failure::Silent(options.patience).into()),
                };
                if let Some(newest) = self.process(line)? {
                    version = newest;
                }
                self.send(out).await?;
            }
        }
    }

    /// Lists the slices. Returns the version of the list.
    async fn list(&mut self, client: &kube::Client, options: &Options) -> Result<String, Stop> {
        let mut listed = BTreeMap::new();
        let mut next: Option<String> = None;
        loop {
            let json = request::list_at(client, selection(), options.page_size, next.as_deref());
            let page: List = serde_json::from_str(&json.await?).map_err(Error::from)?;
            listed.extend(page.items.into_iter().filter_map(of_slice));
            next = page.metadata.next.filter(|next| !next.is_empty());
            if next.is_none() {
                info!(n_slices = listed.len(), "EndpointSlices without a controller listed");
                self.by_name = listed;
                return Ok(page.metadata.resource_version);
            }
        }
    }

    /// Processes a line of the watch. Returns the version where the next watch begins.
    fn process(&mut self, line: &[u8]) -> Result<Option<String>, Failure> {
        let Line { event, object } = serde_json::from_slice(line).map_err(End::Garbled)?;
        let is_gone = match &*event {
            "ADDED" | "MODIFIED" => false,
            "DELETED" => true,
            "BOOKMARK" => {
                return Ok(Some(notice::bookmark(&object.to_string())?.resource_version));
            }
            "ERROR" => return Err(notice::error_event(&object.to_string())),
            _ => return Ok(None),
        };
        let Metadata { resource_version, .. } = metadata(&object);
        match (name(&object), of_slice(object)) {
            (_, Some((name, listed))) if !is_gone => {
                self.by_name.insert(name, listed);
            }
            (name, _) => {
                self.by_name.remove(&name);
            }
        }
        Ok((!resource_version.is_empty()).then_some(resource_version))
    }

    /// Sends the backends of all slices, if they differ from what was sent last.
    async fn send(&mut self, out: &mpsc::Sender<SourceUpdate>) -> Result<(), Stop> {
        let mut backends: BTreeMap<ObjectName, BTreeSet<ServiceBackend>> = BTreeMap::new();
        for ListedBackends { service, backends: listed } in self.by_name.values() {
            backends.entry(service.clone()).or_default().extend(listed.iter().cloned());
        }
        if self.sent.as_ref() == Some(&backends) {
            return Ok(());
        }
        self.sent = Some(backends.clone());
        let deltas = vec![Delta::ListedBackends(backends)];
        let update = SourceUpdate { deltas, ..SourceUpdate::default() };
        out.send(update).await.map_err(|_closed| Stop::Stopped)
    }
}

fn metadata(object: &Value) -> Metadata {
    let found = object.get("metadata").cloned().unwrap_or_default();
    serde_json::from_value(found).unwrap_or_default()
}

fn name(object: &Value) -> ObjectName {
    let Metadata { name, namespace, .. } = metadata(object);
    ObjectName::new(&namespace, &name)
}

/// The name of a slice, and what it lists. The items of a list do not say what they are.
fn of_slice(mut object: Value) -> Option<(ObjectName, ListedBackends)> {
    let name = name(&object);
    let fields = object.as_object_mut()?;
    fields.insert("apiVersion".to_owned(), Value::from("discovery.k8s.io/v1"));
    fields.insert("kind".to_owned(), Value::from("EndpointSlice"));
    Some((name, listed_backends(&object)?))
}

fn selection() -> Selection {
    Selection {
        path: "/apis/discovery.k8s.io/v1/endpointslices".to_owned(),
        fields: None,
        labels: Some(NOT_BY_CONTROLLER.to_owned()),
    }
}
