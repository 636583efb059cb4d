//! All pods: by name, by address, by cohort.

use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use hashbrown::{DefaultHashBuilder, HashTable};
use netpol_common::addr::Addr;
use slab::Slab;
use smallvec::SmallVec;

use super::changes::Changes;
use super::cohorts::{Cohort, CohortId, Cohorts};
use crate::model::{Interner, ObjectName, Pod};

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

/// A pod and where it stands in its cohort.
#[derive(Clone, Debug)]
struct Slot {
    pod: Pod,
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
    slots: Slab<Slot>,
    hasher: DefaultHashBuilder,
    by_name: HashTable<PodId>,
    by_address: HashTable<Holding>,
    pub(super) cohorts: Cohorts,
}

impl Pods {
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn id(&self, name: &ObjectName) -> Option<PodId> {
        let is_it = |id: &PodId| self.at(*id).is_some_and(|pod| pod.name == *name);
        self.by_name.find(self.hasher.hash_one(name), is_it).copied()
    }

    pub(super) fn at(&self, id: PodId) -> Option<&Pod> {
        self.slots.get(id.index()).map(|slot| &slot.pod)
    }

    pub(super) fn get(&self, name: &ObjectName) -> Option<&Pod> {
        self.at(self.id(name)?)
    }

    pub(super) fn cohort(&self, id: PodId) -> Option<CohortId> {
        self.slots.get(id.index()).map(|slot| slot.cohort)
    }

    /// All pods, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Pod> {
        sorted(self.slots.iter().map(|(_, slot)| &slot.pod))
    }

    /// The pods of a namespace, by name.
    pub(super) fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        let cohorts = self.cohorts.of_namespace(namespace).iter();
        let ids = cohorts.filter_map(|id| self.cohorts.get(*id)).flat_map(Cohort::pods);
        sorted(ids.filter_map(|id| self.at(*id)))
    }

    /// Puts the pod, whose shared parts are interned, in the place of an older one or a new one.
    pub(super) fn put(&mut self, old: Option<PodId>, pod: Pod, changes: &mut Changes) -> PodId {
        let Some(id) = old else { return self.seat(pod, changes) };
        let Some(slot) = self.slots.get_mut(id.index()) else { return id };
        let (cohort, place) = (slot.cohort, slot.place);
        let (joined, new_place, is_new) =
            self.cohorts.join(id, &pod.name.namespace, &pod.labels, &pod.ports);
        slot.pod = pod;
        (slot.cohort, slot.place) = (joined, new_place);
        if is_new {
            changes.cohorts.insert(joined);
        }
        self.leave(cohort, place, changes);
        id
    }

    fn seat(&mut self, pod: Pod, changes: &mut Changes) -> PodId {
        let hash = self.hasher.hash_one(&pod.name);
        let entry = self.slots.vacant_entry();
        let id = PodId::new(entry.key());
        let (cohort, place, is_new) =
            self.cohorts.join(id, &pod.name.namespace, &pod.labels, &pod.ports);
        if is_new {
            changes.cohorts.insert(cohort);
        }
        entry.insert(Slot { pod, cohort, place });
        let Self { slots, hasher, by_name, .. } = self;
        by_name.insert_unique(hash, id, name_hash(slots, hasher));
        id
    }

    /// Takes in a whole list as the first pods there are; of several of one name the last. They hold what the API
    /// reports.
    pub(super) fn fill(&mut self, pods: Vec<Pod>, interner: &mut Interner) {
        let n_addresses = pods.iter().map(|pod| pod.addresses().len()).sum();
        let Self { slots, hasher, by_name, by_address, .. } = self;
        slots.reserve_exact(pods.len());
        by_name.reserve(pods.len(), name_hash(slots, hasher));
        by_address.reserve(n_addresses, |held| hasher.hash_one(held.addr));
        let mut unused = Changes::default();
        for mut pod in pods {
            if !self.cohorts.knows(&pod.name.namespace, &pod.labels, &pod.ports) {
                interner.share_pod(&mut pod);
            }
            let addresses: SmallVec<[IpAddr; 2]> = pod.addresses().iter().copied().collect();
            let same = self.id(&pod.name);
            if let Some((id, before)) = same.and_then(|id| Some((id, self.at(id)?))) {
                let before = before.addresses().to_vec();
                self.let_go(id, &before);
            }
            let id = self.put(same, pod, &mut unused);
            self.hold(id, &addresses);
        }
    }

    pub(super) fn remove(&mut self, id: PodId, changes: &mut Changes) {
        let Some(slot) = self.slots.try_remove(id.index()) else { return };
        let hash = self.hasher.hash_one(&slot.pod.name);
        if let Ok(entry) = self.by_name.find_entry(hash, |known| *known == id) {
            entry.remove();
        }
        self.leave(slot.cohort, slot.place, changes);
    }

    fn leave(&mut self, cohort: CohortId, place: u32, changes: &mut Changes) {
        let (moved, is_gone) = self.cohorts.leave(cohort, place);
        if let Some(slot) = moved.and_then(|moved| self.slots.get_mut(moved.index())) {
            slot.place = place;
        }
        if is_gone {
            changes.cohorts.insert(cohort);
        }
    }

    /// Notes that a pod holds these addresses.
    pub(super) fn hold(&mut self, pod: PodId, addresses: &[IpAddr]) {
        let Self { hasher, by_address, .. } = self;
        for address in addresses {
            let held = Holding { addr: Addr::from(*address), pod };
            let hash = hasher.hash_one(held.addr);
            if by_address.find(hash, |known| *known == held).is_none() {
                by_address.insert_unique(hash, held, |held| hasher.hash_one(held.addr));
            }
        }
    }

    /// Undoes [`Self::hold`].
    pub(super) fn let_go(&mut self, pod: PodId, addresses: &[IpAddr]) {
        for address in addresses {
            let held = Holding { addr: Addr::from(*address), pod };
            let hash = self.hasher.hash_one(held.addr);
            if let Ok(entry) = self.by_address.find_entry(hash, |known| *known == held) {
                entry.remove();
            }
        }
    }

    /// All pods that say that they hold an address.
    pub(super) fn holders(&self, addr: Addr) -> impl Iterator<Item = PodId> {
        let found = self.by_address.iter_hash(self.hasher.hash_one(addr));
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

    fn newest(&self, holders: impl Iterator<Item = PodId>) -> Option<PodId> {
        holders.max_by_key(|id| self.at(*id).map(|pod| (pod.created_s, &pod.uid, &pod.name)))
    }

    /// Every address that a pod holds, with its owner, in no order.
    pub(super) fn owned(&self) -> impl Iterator<Item = (Addr, PodId)> {
        let owners = self.by_address.iter().map(|held| (held, self.owner(held.addr)));
        owners
            .filter(|(held, owner)| *owner == Some(held.pod))
            .map(|(held, _)| (held.addr, held.pod))
    }

    /// Every address in these ranges that a pod says it holds, in no order. The ranges are sorted and do not touch.
    pub(super) fn held_within(
        &self,
        ranges: &[RangeInclusive<Addr>],
    ) -> impl Iterator<Item = (Addr, PodId)> {
        let is_within = |held: &&Holding| {
            let before = ranges.partition_point(|range| *range.end() < held.addr);
            ranges.get(before).is_some_and(|range| range.contains(&held.addr))
        };
        self.by_address.iter().filter(is_within).map(|held| (held.addr, held.pod))
    }
}

fn name_hash(slots: &Slab<Slot>, hasher: &DefaultHashBuilder) -> impl Fn(&PodId) -> u64 {
    |id| slots.get(id.index()).map_or(0, |slot| hasher.hash_one(&slot.pod.name))
}

fn sorted<'a>(pods: impl Iterator<Item = &'a Pod>) -> impl Iterator<Item = &'a Pod> {
    let mut pods: Vec<&Pod> = pods.collect();
    pods.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    pods.into_iter()
}
