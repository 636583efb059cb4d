//! kube-runtime's `watcher` in the place of `netpol_kube`: the same updates from the same server.

use std::time::Duration;

use futures::StreamExt as _;
use kube::{Api, Client};
use kube_runtime::watcher::{self, Event, InitialListStrategy, watcher};
use netpol_policy::model::{Kind, Object, ObjectName};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::{Delta, List};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::trimmed::{Reportable, Reported};

/// What stands round the watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// A delay after each error, as kube-runtime recommends.
    Backoff,
    /// What netpol needs and the watcher does not do: pages after a streaming list that failed, a new list after any other
    /// failure, and an end to a list that is silent for so long.
    Recovery { list_patience: Duration },
}

impl Care {
    /// As the agent would have it.
    pub(crate) const AGENT: Self = Self::Recovery { list_patience: Duration::from_secs(15) };
}

/// Delay after an error.
const BACKOFF: Duration = Duration::from_millis(100);

/// How long a watch lasts, seconds; one that is silent for five more is dead.
const WATCH_S: u32 = 125;

/// Follows one kind until nobody listens.
pub(crate) async fn follow<K: Reportable>(
    kind: Kind,
    client: Client,
    care: Care,
    out: mpsc::Sender<SourceUpdate>,
) {
    let mut config = watcher::Config::default().timeout(WATCH_S).streaming_lists();
    loop {
        let mut events = std::pin::pin!(watcher::<K>(Api::all(client.clone()), config.clone()));
        let mut listing: Option<Listing> = None;
        loop {
            let event = match care {
                Care::Recovery { list_patience } if listing.is_some() => {
                    timeout(list_patience, events.next()).await.ok().flatten()
                }
                Care::Recovery { .. } | Care::Backoff => events.next().await,
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
                    update = listing.take().unwrap_or_default().into_update(kind);
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
                Some(Err(_)) | None if care == Care::Backoff => sleep(BACKOFF).await,
                Some(Err(_)) | None => {
                    config.initial_list_strategy = match config.initial_list_strategy {
                        InitialListStrategy::StreamingList => InitialListStrategy::ListWatch,
                        InitialListStrategy::ListWatch => InitialListStrategy::StreamingList,
                    };
                    break;
                }
            }
            let says_nothing = update.deltas.is_empty() && update.diagnostics.is_empty();
            if !says_nothing && out.send(update).await.is_err() {
                return;
            }
        }
        sleep(BACKOFF).await;
    }
}

/// A list while it is being read.
#[derive(Default)]
struct Listing {
    objects: Vec<Object>,
    unreadable: Vec<ObjectName>,
    update: SourceUpdate,
    interner: netpol_policy::model::Interner,
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

    fn into_update(mut self, kind: Kind) -> SourceUpdate {
        self.objects.sort_by(|one, other| one.full_name().cmp(&other.full_name()));
        let list = List::shared(kind, self.objects, self.unreadable, self.interner);
        self.update.deltas.push(Delta::Replace(list));
        self.update
    }
}
