//! The updates of the sources that wait for the event loop.
//!
//! In: updates, in the order in which the sources send them. Out: the same in that order, each with the time of its arrival,
//! without those that a later version of the same object has overtaken: the event loop sees what a watch that began later would
//! have shown. So an object that changes faster than it can be applied costs what one version costs, in time and in
//! memory, and does not delay others more and more.
//! Must not: change the order of what is left, or drop anything but whole versions of objects.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use netpol_policy::model::{Kind, ObjectRef};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::Delta;
use tokio::sync::{Notify, mpsc};

/// Updates that may wait. A faster source is slowed down.
const CAPACITY: usize = 256;
/// Places of the queue, those of overtaken updates included.
const MAX_PLACES: usize = 4 * CAPACITY;

/// Updates with the times of their arrival.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: Mutex<Waiting>,
    /// An update has come, or the sources have ended.
    came: Notify,
    /// Updates were taken.
    taken: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// `None` where a later version has overtaken an update.
    queue: VecDeque<Option<(Instant, SourceUpdate)>>,
    /// How many places have been taken from the front of the queue so far.
    n_taken: u64,
    n_updates: usize,
    /// The latest updates that are nothing but a version of one object, by their places in all that ever came.
    latest: BTreeMap<ObjectRef, u64>,
    has_ended: bool,
}

impl Waiting {
    fn push(&mut self, mut arrived: Instant, update: SourceUpdate) {
        let place = self.n_taken + self.queue.len() as u64;
        if let Some(object) = only_version(&update) {
            if let Some(before) = self.latest.insert(object, place)
                && let Some(overtaken) = self.overtake(before)
            {
                // What is not in force yet has been waiting since then.
                arrived = overtaken;
            }
        } else {
            for delta in &update.deltas {
                match delta {
                    Delta::Upsert(object) => {
                        self.latest.remove(&object.object_ref());
                    }
                    Delta::Remove { object, uid: _ } => {
                        self.latest.remove(object);
                    }
                    Delta::Replace(list) => {
                        self.latest.retain(|object, _| object.kind != list.kind());
                    }
                    Delta::UpsertEndpoint(_)
                    | Delta::RemoveEndpoint(_)
                    | Delta::ShortCuts(_)
                    | Delta::OwnAddresses(_)
                    | Delta::ListedBackends(_)
                    | Delta::PublishedAddresses { .. } => {}
                }
            }
        }
        self.queue.push_back(Some((arrived, update)));
        self.n_updates += 1;
    }

    fn is_full(&self) -> bool {
        self.n_updates >= CAPACITY || self.queue.len() >= MAX_PLACES
    }

    /// Drops the update at a place, if it is still there. Returns when it arrived.
    fn overtake(&mut self, place: u64) -> Option<Instant> {
        let index = usize::try_from(place.checked_sub(self.n_taken)?).ok()?;
        let (arrived, _overtaken) = self.queue.get_mut(index)?.take()?;
        self.n_updates -= 1;
        Some(arrived)
    }

    /// Moves up to so many updates from the front.
    fn take(&mut self, updates: &mut Vec<(Instant, SourceUpdate)>, limit: usize) {
        let mut n_left = limit;
        while n_left > 0
            && let Some(place) = self.queue.pop_front()
        {
            self.n_taken += 1;
            let Some(update) = place else { continue };
            n_left -= 1;
            self.n_updates -= 1;
            updates.push(update);
        }
        if self.queue.is_empty() {
            self.latest.clear();
        } else if self.latest.len() > MAX_PLACES {
            let n_taken = self.n_taken;
            self.latest.retain(|_, place| *place >= n_taken);
        }
    }
}

/// The object, if an update is nothing but a version of it that a later one may overtake. Each version of a namespace counts: the first
/// that is terminating has to come before the deletions of policies that follow it.
fn only_version(update: &SourceUpdate) -> Option<ObjectRef> {
    let SourceUpdate { deltas, diagnostics, health } = update;
    let [Delta::Upsert(object)] = deltas.as_slice() else { return None };
    if object.kind() == Kind::Namespace {
        return None;
    }
    let object = object.object_ref();
    let is_about_it = diagnostics.iter().all(|(of, _)| *of == object);
    (health.is_empty() && is_about_it).then_some(object)
}

impl Backlog {
    /// The updates that arrive here and are not applied yet. Its task ends with the sources.
    pub(super) fn of(updates: mpsc::Receiver<SourceUpdate>) -> Arc<Self> {
        let backlog = Arc::new(Self::default());
        let filling = Arc::clone(&backlog);
        tokio::spawn(async move { filling.fill(updates).await });
        backlog
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in all that the sources send, until they end.
    #[expect(clippy::disallowed_methods, reason = "the state gets the time from here")]
    pub(super) async fn fill(&self, mut updates: mpsc::Receiver<SourceUpdate>) {
        while let Some(update) = updates.recv().await {
            while self.lock().is_full() {
                self.taken.notified().await;
            }
            self.lock().push(Instant::now(), update);
            self.came.notify_one();
        }
        self.lock().has_ended = true;
        self.came.notify_one();
    }

    /// Waits until updates are there, and moves up to `limit` of them to the end of `updates`. Returns how many; 0 once the sources have
    /// ended and nothing is left. If the future is dropped, nothing is lost. For one caller at a time.
    pub(super) async fn take_many(
        &self,
        updates: &mut Vec<(Instant, SourceUpdate)>,
        limit: usize,
    ) -> usize {
        loop {
            {
                let mut waiting = self.lock();
                let n_before = updates.len();
                waiting.take(updates, limit);
                let n_taken = updates.len() - n_before;
                if n_taken > 0 || waiting.has_ended {
                    drop(waiting);
                    self.taken.notify_one();
                    return n_taken;
                }
            }
            self.came.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use netpol_policy::model::{Code, Diagnostic, Labels, Namespace, Object, ObjectName};
    use netpol_policy::source::Health;
    use netpol_policy::store::List;

    use super::super::tests::{pod, update};
    use super::*;

    /// A version of a pod on this node.
    fn version(name: &str, node: &str) -> SourceUpdate {
        let mut delta = pod(name);
        if let Delta::Upsert(Object::Pod(pod)) = &mut delta {
            pod.node = Arc::from(node);
        }
        update(delta)
    }

    fn object(name: &str) -> ObjectRef {
        ObjectRef { kind: Kind::Pod, name: ObjectName::new("x", name) }
    }

    /// Names and nodes of the pods in the updates, and other updates as they are.
    fn shown(updates: &[(Instant, SourceUpdate)]) -> Vec<String> {
        let show = |(_, update): &(Instant, SourceUpdate)| match update.deltas.as_slice() {
            [Delta::Upsert(Object::Pod(pod))] => {
                format!("{}@{}", pod.name.name, pod.node)
            }
            [Delta::Remove { object, .. }] => format!("{} removed", object.name.name),
            [Delta::Replace(_)] => "list".to_owned(),
            deltas => format!("{} deltas", deltas.len()),
        };
        updates.iter().map(show).collect()
    }

    fn taken(waiting: &mut Waiting, limit: usize) -> Vec<(Instant, SourceUpdate)> {
        let mut updates = Vec::new();
        waiting.take(&mut updates, limit);
        updates
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any time")]
    fn a_version_that_was_overtaken_is_dropped_and_its_successor_has_waited_since_then() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut waiting = Waiting::default();
        waiting.push(at(1), version("a", "1"));
        waiting.push(at(2), version("b", "1"));
        waiting.push(at(3), version("a", "2"));
        waiting.push(at(4), version("a", "3"));
        waiting.push(at(5), version("c", "1"));
        assert_eq!(waiting.n_updates, 3);
        let first = taken(&mut waiting, 2);
        assert_eq!(shown(&first), ["b@1", "a@3"]);
        assert_eq!(first.iter().map(|(arrived, _)| *arrived).collect::<Vec<_>>(), [at(2), at(1)]);
        // What has been taken cannot be overtaken.
        waiting.push(at(6), version("a", "4"));
        let rest = taken(&mut waiting, 64);
        assert_eq!(shown(&rest), ["c@1", "a@4"]);
        assert_eq!(rest.iter().map(|(arrived, _)| *arrived).collect::<Vec<_>>(), [at(5), at(6)]);
        assert_eq!((waiting.n_updates, waiting.latest.len()), (0, 0));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any time")]
    fn nothing_is_dropped_across_a_removal_a_list_or_what_else_an_update_says() {
        let now = Instant::now();
        let removed = || update(Delta::Remove { object: object("a"), uid: None });
        let list = || update(Delta::Replace(List::new(Kind::Pod, Vec::new(), Vec::new())));
        let both = || SourceUpdate { deltas: vec![pod("a"), pod("b")], ..SourceUpdate::default() };
        let healthy = || SourceUpdate {
            health: vec![(Kind::Pod, Health::Listing)],
            ..version("a", "healthy")
        };
        let of_another = || SourceUpdate {
            diagnostics: vec![(object("b"), Vec::new())],
            ..version("a", "other")
        };
        for between in [removed, list, both, healthy, of_another] as [fn() -> SourceUpdate; 5] {
            let mut waiting = Waiting::default();
            waiting.push(now, version("a", "1"));
            waiting.push(now, between());
            waiting.push(now, version("a", "2"));
            assert_eq!(taken(&mut waiting, 64).len(), 3, "{:?}", between());
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any time")]
    fn each_version_of_a_namespace_comes_before_what_follows_it() {
        let namespace = || {
            update(Delta::Upsert(Object::Namespace(Namespace {
                name: Arc::from("x"),
                labels: Labels::new(),
                terminating: true,
                allows_forwarding: false,
            })))
        };
        let mut waiting = Waiting::default();
        for _ in 0..3 {
            waiting.push(Instant::now(), namespace());
        }
        assert_eq!(taken(&mut waiting, 64).len(), 3);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any time")]
    fn the_findings_on_a_version_go_with_it() {
        let finding = Diagnostic {
            code: Code::OverCapacity,
            object: object("a"),
            field: String::new(),
            message: String::new(),
        };
        let with_finding =
            SourceUpdate { diagnostics: vec![(object("a"), vec![finding])], ..version("a", "1") };
        let mut waiting = Waiting::default();
        waiting.push(Instant::now(), with_finding);
        waiting.push(Instant::now(), version("a", "2"));
        let left = taken(&mut waiting, 64);
        assert_eq!(shown(&left), ["a@2"]);
        assert!(left[0].1.diagnostics.is_empty());
    }

    #[tokio::test]
    async fn a_source_waits_while_the_backlog_is_full_and_its_end_is_seen_last() {
        let backlog = Arc::new(Backlog::default());
        let (sender, receiver) = mpsc::channel(1);
        let filling = tokio::spawn({
            let backlog = Arc::clone(&backlog);
            async move { backlog.fill(receiver).await }
        });
        let n_sent = CAPACITY + 10;
        let sending = tokio::spawn(async move {
            for n in 0..n_sent {
                sender.send(version(&n.to_string(), "1")).await.unwrap();
            }
        });
        while backlog.lock().n_updates < CAPACITY {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        assert!(
            !sending.is_finished(),
            "one waits here, one in the channel, and the rest are not sent"
        );
        let mut updates = Vec::new();
        while backlog.take_many(&mut updates, 64).await > 0 {}
        assert_eq!(updates.len(), n_sent);
        assert_eq!(backlog.take_many(&mut updates, 64).await, 0, "ended");
        sending.await.unwrap();
        filling.await.unwrap();
    }
}
