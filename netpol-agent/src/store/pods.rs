//! All pods: by name, by address, by cohort.

use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use netpol_common::addr::Addr;

use super::changes::Changes;
use super::cohorts::{Cohort, CohortId, Cohorts, Content};
use crate::model::{Addresses, Interner, Object, ObjectName, Pod};

/// Number of a pod, given again after it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PodId(u32);

impl PodId {
    fn new(index: usize) -> Self {
        // More than four thousand million pods do not fit into memory.
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Where a pod stands in its cohort.
#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    cohort: CohortId,
    place: u32,
}

/// Says that a pod holds an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holding {
    addr: Addr,
    pod: PodId,
}

/// The table of pods.
///
/// Addresses are given again after a pod ends, and the news of that can come late: of several holders the newest is
/// right. Equal ages are decided by uid and name, so that the order of events has no say.
///
/// Names and addresses are hashed and not sorted: that is a tenth of the memory, and what wants an order can sort.
#[derive(Clone, Debug, Default)]
pub(super) struct Pods {
    /// By their numbers; `None` where a number is free.
    slots: Vec<Option<Pod>>,
    /// Those of the pods in `slots`.
    seats: Vec<Seat>,
    free: Vec<PodId>,
    hasher: DefaultHashBuilder,
    by_name: HashTable<PodId>,
    by_address: HashTable<Holding>,
    /// How many say that they hold an address which another one says it holds too.
    n_contesting: usize,
    pub(super) cohorts: Cohorts,
}

impl Pods {
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// How many addresses pods say they hold, those that several hold counted as often.
    pub(super) fn n_addresses(&self) -> usize {
        self.by_address.len()
    }

    pub(super) fn id(&self, name: &ObjectName) -> Option<PodId> {
        self.id_hashed(self.hasher.hash_one(name), name)
    }

    fn id_hashed(&self, hash: u64, name: &ObjectName) -> Option<PodId> {
        let is_it = |id: &PodId| self.at(*id).is_some_and(|pod| pod.name == *name);
        self.by_name.find(hash, is_it).copied()
    }

    pub(super) fn at(&self, id: PodId) -> Option<&Pod> {
        self.slots.get(id.index())?.as_ref()
    }

    pub(super) fn get(&self, name: &ObjectName) -> Option<&Pod> {
        self.at(self.id(name)?)
    }

    pub(super) fn cohort(&self, id: PodId) -> Option<CohortId> {
        self.at(id)?;
        self.seats.get(id.index()).map(|seat| seat.cohort)
    }

    /// All pods, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Pod> {
        sorted(self.slots.iter().flatten())
    }

    /// The pods of a namespace, by name.
    pub(super) fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        let cohorts = self.cohorts.of_namespace(namespace).iter();
        let ids = cohorts.filter_map(|id| self.cohorts.get(*id)).flat_map(Cohort::pods);
        sorted(ids.filter_map(|id| self.at(*id)))
    }

    /// Puts the pod, whose shared parts are interned, in the place of an older one or a new one.
    pub(super) fn put(&mut self, old: Option<PodId>, pod: Pod, changes: &mut Changes) -> PodId {
        let Some(id) = old else {
            let (cohort, is_new) = self.cohorts.of(&pod.name.namespace, &pod.labels, &pod.ports);
            if is_new {
                changes.cohorts.insert(cohort);
            }
            return self.seat(self.hasher.hash_one(&pod.name), pod, cohort);
        };
        let Some(slot) = self.slots.get_mut(id.index()) else { return id };
        let Some(seat) = self.seats.get_mut(id.index()) else { return id };
        let before = *seat;
        let (cohort, is_new) = self.cohorts.of(&pod.name.namespace, &pod.labels, &pod.ports);
        *slot = Some(pod);
        *seat = Seat { cohort, place: self.cohorts.join(cohort, id) };
        if is_new {
            changes.cohorts.insert(cohort);
        }
        self.leave(before, changes);
        id
    }

    /// Takes in a pod of a new name, given the name's hash.
    fn seat(&mut self, hash: u64, pod: Pod, cohort: CohortId) -> PodId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.seats.push(Seat::default());
            PodId::new(self.slots.len() - 1)
        });
        if let Some(slot) = self.slots.get_mut(id.index()) {
            *slot = Some(pod);
        }
        self.sit_down(hash, id, cohort);
        id
    }

    fn sit_down(&mut self, hash: u64, id: PodId, cohort: CohortId) {
        let place = self.cohorts.join(cohort, id);
        if let Some(seat) = self.seats.get_mut(id.index()) {
            *seat = Seat { cohort, place };
        }
        let Self { slots, hasher, by_name, .. } = self;
        by_name.insert_unique(hash, id, name_hash(slots, hasher));
    }

    /// Takes in a whole list as the first pods there are; of several of one name the last. They hold what the API
    /// reports.
    pub(super) fn fill(&mut self, objects: Vec<Object>, interner: &mut Interner) {
        let pod = |object| if let Object::Pod(pod) = object { Some(pod) } else { None };
        // They stay where they are: to touch new memory would cost as much as all the rest.
        self.slots = objects.into_iter().map(pod).collect();
        self.seats = vec![Seat::default(); self.slots.len()];
        self.free.clear();
        let n_addresses = self.slots.iter().flatten().map(|pod| pod.addresses().len()).sum();
        let Self { slots, hasher, by_name, by_address, .. } = self;
        by_name.reserve(slots.len(), name_hash(slots, hasher));
        by_address.reserve(n_addresses, |held| hash(hasher, held.addr));
        // Pods that are alike mostly stand side by side.
        let mut latest = None;
        for id in (0..self.slots.len()).map(PodId::new) {
            let Some(pod) = self.at(id) else {
                self.free.push(id);
                continue;
            };
            let hash = self.hasher.hash_one(&pod.name);
            let content = Content::of(&pod.name.namespace, &pod.labels, &pod.ports);
            let addresses: Addresses = pod.addresses().iter().copied().collect();
            if let Some(same) = self.id_hashed(hash, &pod.name) {
                self.replace(same, id, interner);
                latest = None;
                continue;
            }
            let cohort = match latest {
                Some((known, cohort)) if known == content => cohort,
                _ => self.cohorts.known(content).unwrap_or_else(|| self.new_cohort(id, interner)),
            };
            latest = Some((content, cohort));
            self.sit_down(hash, id, cohort);
            self.hold(id, &addresses);
        }
    }

    /// The cohort of a pod whose shared parts are not interned yet.
    fn new_cohort(&mut self, id: PodId, interner: &mut Interner) -> CohortId {
        let Some(pod) = self.slots.get_mut(id.index()).and_then(Option::as_mut) else {
            return CohortId::default();
        };
        interner.share_pod(pod);
        self.cohorts.of(&pod.name.namespace, &pod.labels, &pod.ports).0
    }

    /// Puts a pod that has no seat yet in the place of an older one of its name, of which nothing follows yet.
    fn replace(&mut self, old: PodId, new: PodId, interner: &mut Interner) {
        self.free.push(new);
        let slot = self.slots.get_mut(new.index());
        let Some(mut pod) = slot.and_then(Option::take) else { return };
        let before: Addresses =
            self.at(old).into_iter().flat_map(Pod::addresses).copied().collect();
        self.let_go(old, &before);
        let addresses: Addresses = pod.addresses().iter().copied().collect();
        interner.share_pod(&mut pod);
        self.put(Some(old), pod, &mut Changes::default());
        self.hold(old, &addresses);
    }

    pub(super) fn remove(&mut self, id: PodId, changes: &mut Changes) {
        let slot = self.slots.get_mut(id.index());
        let Some(pod) = slot.and_then(Option::take) else { return };
        self.free.push(id);
        let hash = self.hasher.hash_one(&pod.name);
        if let Ok(entry) = self.by_name.find_entry(hash, |known| *known == id) {
            entry.remove();
        }
        if let Some(seat) = self.seats.get(id.index()).copied() {
            self.leave(seat, changes);
        }
    }

    fn leave(&mut self, Seat { cohort, place }: Seat, changes: &mut Changes) {
        let (moved, is_gone) = self.cohorts.leave(cohort, place);
        if let Some(seat) = moved.and_then(|moved| self.seats.get_mut(moved.index())) {
            seat.place = place;
        }
        if is_gone {
            changes.cohorts.insert(cohort);
        }
    }

    /// Notes that a pod holds these addresses.
    pub(super) fn hold(&mut self, pod: PodId, addresses: &[IpAddr]) {
        let Self { hasher, by_address, n_contesting, .. } = self;
        let rehash = |held: &Holding| hash(hasher, held.addr);
        for address in addresses {
            let held = Holding { addr: Addr::from(*address), pod };
            let hash = rehash(&held);
            if let Entry::Vacant(entry) =
                by_address.entry(hash, |known| known.addr == held.addr, rehash)
            {
                entry.insert(held);
            } else if by_address.find(hash, |known| *known == held).is_none() {
                *n_contesting += 1;
                by_address.insert_unique(hash, held, rehash);
            }
        }
    }

    /// Undoes [`Self::hold`].
    pub(super) fn let_go(&mut self, pod: PodId, addresses: &[IpAddr]) {
        for address in addresses {
            let held = Holding { addr: Addr::from(*address), pod };
            let hash = hash(&self.hasher, held.addr);
            if let Ok(entry) = self.by_address.find_entry(hash, |known| *known == held) {
                entry.remove();
                let is_held = self.by_address.find(hash, |known| known.addr == held.addr).is_some();
                self.n_contesting -= usize::from(is_held);
            }
        }
    }

    /// All pods that say that they hold an address.
    pub(super) fn holders(&self, addr: Addr) -> impl Iterator<Item = PodId> {
        let found = self.by_address.iter_hash(hash(&self.hasher, addr));
        found.filter(move |held| held.addr == addr).map(|held| held.pod)
    }

    /// The pod that holds an address: of several, the newest.
    pub(super) fn owner(&self, addr: Addr) -> Option<PodId> {
        let mut holders = self.holders(addr);
        let first = holders.next()?;
        match holders.next() {
            None => Some(first),
            Some(second) => self.newest([first, second].into_iter().chain(holders)),
        }
    }

    /// Whether a pod that says it holds an address does.
    pub(super) fn owns(&self, pod: PodId, addr: Addr) -> bool {
        self.n_contesting == 0 || self.owner(addr) == Some(pod)
    }

    fn newest(&self, holders: impl Iterator<Item = PodId>) -> Option<PodId> {
        holders.max_by_key(|id| self.at(*id).map(|pod| (pod.created_s, &pod.uid, &pod.name)))
    }

    /// Every address that a pod holds, with its owner, in no order.
    pub(super) fn owned(&self) -> impl Iterator<Item = (Addr, PodId)> {
        let held = self.by_address.iter().filter(|held| self.owns(held.pod, held.addr));
        held.map(|held| (held.addr, held.pod))
    }

    /// Those of [`Self::owned`] that are in these ranges, which are sorted and do not touch.
    pub(super) fn owned_within(
        &self,
        ranges: &[RangeInclusive<Addr>],
    ) -> impl Iterator<Item = (Addr, PodId)> {
        let is_within = |held: &&Holding| {
            let before = ranges.partition_point(|range| *range.end() < held.addr);
            ranges.get(before).is_some_and(|range| range.contains(&held.addr))
        };
        let held = self.by_address.iter().filter(is_within);
        held.filter(|held| self.owns(held.pod, held.addr)).map(|held| (held.addr, held.pod))
    }
}

fn name_hash(slots: &[Option<Pod>], hasher: &DefaultHashBuilder) -> impl Fn(&PodId) -> u64 {
    |id| {
        let pod = slots.get(id.index()).and_then(Option::as_ref);
        pod.map_or(0, |pod| hasher.hash_one(&pod.name))
    }
}

/// The hash of an address, as a number: that of its bytes costs twice as much.
fn hash(hasher: &DefaultHashBuilder, addr: Addr) -> u64 {
    hasher.hash_one(u128::from_ne_bytes(addr.0))
}

fn sorted<'a>(pods: impl Iterator<Item = &'a Pod>) -> impl Iterator<Item = &'a Pod> {
    let mut pods: Vec<&Pod> = pods.collect();
    pods.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    pods.into_iter()
}
