//! kube-runtime's `watcher` in the place of `netpol_kube`: the same updates from the same server.
//!
//! Round the watcher stands what netpol needs and it does not do: pages after a streaming list that failed, and an end to a
//! list that never ends. What it cannot do at all is not imitated.

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

/// A list that is silent for so long has failed.
const LIST_PATIENCE: Duration = Duration::from_secs(15);

/// How long a watch lasts, seconds; one that is silent for five more is dead.
const WATCH_S: u32 = 125;

/// Follows one kind until nobody listens.
pub(crate) async fn follow<K: Reportable>(
    kind: Kind,
    client: Client,
    out: mpsc::Sender<SourceUpdate>,
) {
    let mut config = watcher::Config::default().timeout(WATCH_S).streaming_lists();
    loop {
        let mut events = std::pin::pin!(watcher::<K>(Api::all(client.clone()), config.clone()));
        let mut listing: Option<Listing> = None;
        loop {
            let event = if listing.is_some() {
                timeout(LIST_PATIENCE, events.next()).await.ok().flatten()
            } else {
                events.next().await
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
        sleep(Duration::from_millis(100)).await;
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
