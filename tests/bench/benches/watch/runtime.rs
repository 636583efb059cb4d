//! kube-runtime's `watcher` in place of netpol-kube: the same updates about the pods of the same server.

use std::time::Duration;

use futures::StreamExt as _;
use kube::{Api, Client};
use kube_runtime::watcher::{self, Event, InitialListStrategy, watcher};
use netpol_policy::model::{Interner, Kind, Object, ObjectName};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::{Delta, List};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::trimmed::{Reportable, Reported};

/// What is done after an error of the watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// A delay, as kube-runtime recommends. The watcher decides the rest.
    Delay,
    /// The list begins again with a new watcher, in pages after a streaming list that failed.
    NewList {
        /// A list on which nothing arrives for this long has failed.
        list_patience: Duration,
    },
}

impl Recovery {
    /// With the agent's limit.
    pub(crate) const AGENT: Self = Self::NewList { list_patience: Duration::from_secs(15) };
}

/// Delay after an error.
const DELAY: Duration = Duration::from_millis(100);

/// Duration of a watch in seconds. The watcher reconnects when it is silent for five seconds more.
const WATCH_S: u32 = 125;

/// Lists and watches the pods until the receiving end is dropped.
pub(crate) async fn watch_pods<K: Reportable>(
    client: Client,
    recovery: Recovery,
    out: mpsc::Sender<SourceUpdate>,
) {
    let mut config = watcher::Config::default().timeout(WATCH_S).streaming_lists();
    loop {
        let mut events = std::pin::pin!(watcher::<K>(Api::all(client.clone()), config.clone()));
        let mut listing: Option<Listing> = None;
        loop {
            let event = match recovery {
                Recovery::NewList { list_patience } if listing.is_some() => {
                    timeout(list_patience, events.next()).await.ok().flatten()
                }
                Recovery::NewList { .. } | Recovery::Delay => events.next().await,
            };
            let mut update = SourceUpdate::default();
            match event {
                Some(Ok(Event::Init)) => listing = Some(Listing::default()),
                Some(Ok(Event::InitApply(object))) => {
                    if let Some(listing) = &mut listing {
                        listing.add(object.reported());
                    }
                }
                Some(Ok(Event::InitDone)) => {
                    update = listing.take().unwrap_or_default().into_update();
                    config.initial_list_strategy = InitialListStrategy::StreamingList;
                }
                Some(Ok(Event::Apply(object))) => {
                    let Reported { object_ref, uid: _, object, found } = object.reported();
                    update.deltas.extend(object.map(Delta::Upsert));
                    if !found.is_empty() {
                        update.diagnostics.push((object_ref, found));
                    }
                }
                Some(Ok(Event::Delete(object))) => {
                    let Reported { object_ref: object, uid, .. } = object.reported();
                    update.deltas.push(Delta::Remove { object, uid });
                }
                Some(Err(_)) | None if recovery == Recovery::Delay => sleep(DELAY).await,
                Some(Err(_)) | None => {
                    config.initial_list_strategy = match config.initial_list_strategy {
                        InitialListStrategy::StreamingList => InitialListStrategy::ListWatch,
                        InitialListStrategy::ListWatch => InitialListStrategy::StreamingList,
                    };
                    break;
                }
            }
            let is_empty = update.deltas.is_empty() && update.diagnostics.is_empty();
            if !is_empty && out.send(update).await.is_err() {
                return;
            }
        }
        sleep(DELAY).await;
    }
}

/// The entries of a list received so far.
#[derive(Default)]
struct Listing {
    objects: Vec<Object>,
    unreadable: Vec<ObjectName>,
    update: SourceUpdate,
    interner: Interner,
}

impl Listing {
    fn add(&mut self, reported: Reported) {
        let Reported { object_ref, uid: _, object, found } = reported;
        match object {
            Some(mut object) => {
                self.interner.share(&mut object);
                self.objects.push(object);
            }
            None => self.unreadable.push(object_ref.name.clone()),
        }
        if !found.is_empty() {
            self.update.diagnostics.push((object_ref, found));
        }
    }

    fn into_update(mut self) -> SourceUpdate {
        self.objects.sort_by(|one, other| one.full_name().cmp(&other.full_name()));
        let list = List::shared(Kind::Pod, self.objects, self.unreadable, self.interner);
        self.update.deltas.push(Delta::Replace(list));
        self.update
    }
}
