//! Lists and watches objects for which nothing waits: after any failure the list is read again, and what is known stays until then.
//!
//! In: a [`Followed`]. Out: the changes that it makes of the objects. Must not: have a health of its own.

use std::borrow::Cow;
use std::convert::Infallible;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::Options;
use super::access::{Access, Error};
use super::decode::Event;
use super::failure::{Failure, MIN_WATCH, Stop, Stopped};
use super::notice;
use super::request::{self, End, Selection};
use super::retry::{Retry, spread};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::Delta;

/// The duration that a watch request asks for, before up to a quarter is added.
const WATCH: Duration = Duration::from_mins(8);

/// What is followed, and what is known of it.
pub(super) trait Followed {
    /// An object, as far as it is read.
    type Object: DeserializeOwned;

    /// The objects.
    fn selection() -> Selection;
    /// The `resourceVersion` of an object; empty if it has none.
    fn version(object: &Self::Object) -> &str;
    /// Takes a complete list.
    fn replace(&mut self, objects: Vec<Self::Object>) -> Vec<Delta>;
    /// Takes a change of one object.
    fn change(&mut self, event: Event, object: Self::Object) -> Vec<Delta>;
    /// Says that the list is read again.
    fn report(failure: &Failure);
}

#[derive(Deserialize)]
struct List<T> {
    metadata: ListMetadata,
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
    #[serde(rename = "continue", default)]
    next: Option<String>,
}

/// A line of the watch.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type", borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Sends the changes to `out`, until the receiving end is dropped.
pub(super) async fn follow<F: Followed>(
    access: Access,
    options: &Options,
    out: &mpsc::Sender<SourceUpdate>,
    followed: &mut F,
) {
    let mut retry = Retry::new(options.min_retry, options.max_retry);
    loop {
        let latest = access.latest();
        let began = Instant::now();
        let failure = match list_and_watch(&latest.client, options, out, followed).await {
            Ok(never) => match never {},
            Err(Stop::Stopped) => return,
            Err(Stop::Failed(failure)) => failure,
        };
        F::report(&failure);
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

async fn list_and_watch<F: Followed>(
    client: &kube::Client,
    options: &Options,
    out: &mpsc::Sender<SourceUpdate>,
    followed: &mut F,
) -> Result<Infallible, Stop> {
    let (objects, mut version) = list::<F>(client, options).await?;
    send(out, followed.replace(objects)).await?;
    loop {
        let began = Instant::now();
        let mut lines =
            request::watch_at(client, F::selection(), Some(&version), spread(WATCH)).await?;
        loop {
            let line = match timeout(options.patience, lines.next()).await {
                Ok(Ok(line)) => line,
                // The server ends watches after a time.
                Ok(Err(End::Closed)) if began.elapsed() >= MIN_WATCH => break,
                Ok(Err(end)) => return Err(end.into()),
                Err(_elapsed) => return Err(Failure::Silent(options.patience).into()),
            };
            let (newest, deltas) = process(line, followed)?;
            version = newest.unwrap_or(version);
            send(out, deltas).await?;
        }
    }
}

/// Reads all pages of the list. Returns its objects and its version.
async fn list<F: Followed>(
    client: &kube::Client,
    options: &Options,
) -> Result<(Vec<F::Object>, String), Stop> {
    let mut objects = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let json = request::list_at(client, F::selection(), options.page_size, next.as_deref());
        let page: List<F::Object> = serde_json::from_str(&json.await?).map_err(Error::from)?;
        objects.extend(page.items);
        next = page.metadata.next.filter(|next| !next.is_empty());
        if next.is_none() {
            return Ok((objects, page.metadata.resource_version));
        }
    }
}

/// Processes a line of the watch. Returns the version where the next watch begins, and the changes.
fn process<F: Followed>(
    line: &[u8],
    followed: &mut F,
) -> Result<(Option<String>, Vec<Delta>), Failure> {
    let Line { event, object } = serde_json::from_slice(line).map_err(End::Garbled)?;
    let json = object.get();
    let event = match &*event {
        "ADDED" => Event::Added,
        "MODIFIED" => Event::Modified,
        "DELETED" => Event::Deleted,
        "BOOKMARK" => return Ok((Some(notice::bookmark(json)?.resource_version), Vec::new())),
        "ERROR" => return Err(notice::error_event(json)),
        _ => return Ok((None, Vec::new())),
    };
    let object = serde_json::from_str(json).map_err(End::Garbled)?;
    let version = Some(F::version(&object)).filter(|version| !version.is_empty());
    Ok((version.map(str::to_owned), followed.change(event, object)))
}

async fn send(out: &mpsc::Sender<SourceUpdate>, deltas: Vec<Delta>) -> Result<(), Stopped> {
    if deltas.is_empty() {
        return Ok(());
    }
    let update = SourceUpdate { deltas, ..SourceUpdate::default() };
    out.send(update).await.map_err(|_closed| Stopped)
}
