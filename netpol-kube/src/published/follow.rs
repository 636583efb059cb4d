//! Lists and watches the objects of all nodes.
//!
//! Nothing waits for them: an address that is not known yet is known later, from the pod's status. So there is no health of its own
//! in [`SourceUpdate`], and after any failure the list is read again.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

use super::{KEY, LABEL, NAMESPACE, text};
use crate::Options;
use crate::access::Access;
use crate::decode::Event;
use crate::failure::{Failure, MIN_WATCH};
use crate::notice;
use crate::request::{self, End, Selection};
use crate::retry::{Retry, spread};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::{Delta, PublishedPod};

/// The duration that a watch request asks for, before up to a quarter is added.
const WATCH: Duration = Duration::from_mins(8);

/// The nodes that publish something, as far as it was sent on.
#[derive(Debug, Default)]
pub struct Followed {
    nodes: BTreeSet<Arc<str>>,
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
    metadata: ListMetadata,
    #[serde(default)]
    items: Vec<ConfigMap>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
    #[serde(rename = "continue", default)]
    next: Option<String>,
}

#[derive(Deserialize)]
struct ConfigMap {
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

/// A line of the watch.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type", borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
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
    let mut retry = Retry::new(options.min_retry, options.max_retry);
    loop {
        let latest = access.latest();
        let began = Instant::now();
        let stop = followed.follow(&latest.client, options, out).await;
        let failure = match stop {
            Ok(never) => match never {},
            Err(Stop::Stopped) => return,
            Err(Stop::Failed(failure)) => failure,
        };
        debug!(%failure, "published addresses are listed again");
        if began.elapsed() >= MIN_WATCH {
            retry.reset();
        }
        sleep(retry.next_delay()).await;
        if failure.wants_new_client() {
            // The next attempt uses the newest client in any case.
            drop(access.renew(latest.number).await);
        }
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

    async fn follow(
        &mut self,
        client: &kube::Client,
        options: &Options,
        out: &mpsc::Sender<SourceUpdate>,
    ) -> Result<Infallible, Stop> {
        let mut version = self.list(client, options, out).await?;
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
                let (newest, delta) = self.process(line)?;
                version = newest.unwrap_or(version);
                if let Some(delta) = delta {
                    send(out, vec![delta]).await?;
                }
            }
        }
    }

    /// Lists the objects. Returns the version of the list.
    async fn list(
        &mut self,
        client: &kube::Client,
        options: &Options,
        out: &mpsc::Sender<SourceUpdate>,
    ) -> Result<String, Stop> {
        let mut gone = self.nodes.clone();
        let mut deltas = Vec::new();
        let mut next: Option<String> = None;
        let version = loop {
            let json = request::list_at(client, selection(), options.page_size, next.as_deref());
            let page: List =
                serde_json::from_str(&json.await?).map_err(crate::access::Error::from)?;
            for object in page.items {
                gone.remove(&object.metadata.name);
                deltas.extend(self.apply(&object.metadata.name, object.pods()));
            }
            next = page.metadata.next.filter(|next| !next.is_empty());
            if next.is_none() {
                break page.metadata.resource_version;
            }
        };
        deltas.extend(gone.into_iter().filter_map(|node| self.apply(&node, Vec::new())));
        info!(n_nodes = self.nodes.len(), "published addresses listed");
        if !deltas.is_empty() {
            send(out, deltas).await?;
        }
        Ok(version)
    }

    /// Processes a line of the watch. Returns the version where the next watch begins, and the change.
    fn process(&mut self, line: &[u8]) -> Result<(Option<String>, Option<Delta>), Failure> {
        let Line { event, object } = serde_json::from_slice(line).map_err(End::Garbled)?;
        let json = object.get();
        let of_object = |event| -> Result<(Event, ConfigMap), Failure> {
            Ok((event, serde_json::from_str(json).map_err(End::Garbled)?))
        };
        let (event, object) = match &*event {
            "ADDED" => of_object(Event::Added)?,
            "MODIFIED" => of_object(Event::Modified)?,
            "DELETED" => of_object(Event::Deleted)?,
            "BOOKMARK" => return Ok((Some(notice::bookmark(json)?.resource_version), None)),
            "ERROR" => return Err(notice::error_event(json)),
            _ => return Ok((None, None)),
        };
        let pods = if event == Event::Deleted { Vec::new() } else { object.pods() };
        let delta = self.apply(&object.metadata.name, pods);
        let version = object.metadata.resource_version;
        Ok(((!version.is_empty()).then_some(version), delta))
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

fn selection() -> Selection {
    let [label, value] = LABEL;
    Selection {
        path: format!("/api/v1/namespaces/{NAMESPACE}/configmaps"),
        fields: None,
        labels: Some(format!("{label}={value}")),
    }
}

async fn send(out: &mpsc::Sender<SourceUpdate>, deltas: Vec<Delta>) -> Result<(), Stop> {
    let update = SourceUpdate { deltas, ..SourceUpdate::default() };
    out.send(update).await.map_err(|_closed| Stop::Stopped)
}
