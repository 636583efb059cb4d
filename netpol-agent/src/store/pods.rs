//! All pods: by name, by address, by cohort.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use netpol_common::addr::Addr;
use slab::Slab;
use smallvec::SmallVec;

use super::changes::Changes;
use super::cohorts::{CohortId, Cohorts};
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
    place: usize,
}

/// The table of pods.
///
/// Addresses are given again after a pod ends, and the news of that can come late: of several holders the newest is
/// right. Equal ages are decided by uid and name, so that the order of events has no say.
#[derive(Clone, Debug, Default)]
pub(super) struct Pods {
    slots: Slab<Slot>,
    by_name: BTreeMap<ObjectName, PodId>,
    by_address: BTreeMap<Addr, SmallVec<[PodId; 2]>>,
    pub(super) cohorts: Cohorts,
}

impl Pods {
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub(super) fn id(&self, name: &ObjectName) -> Option<PodId> {
        self.by_name.get(name).copied()
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

    pub(super) fn names(&self) -> impl Iterator<Item = &ObjectName> {
        self.by_name.keys()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pod> {
        self.by_name.values().filter_map(|id| self.at(*id))
    }

    pub(super) fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        let start = ObjectName::new(namespace, "");
        let namespace: Arc<str> = Arc::clone(&start.namespace);
        self.by_name
            .range(start..)
            .take_while(move |(name, _)| name.namespace == namespace)
            .filter_map(|(_, id)| self.at(*id))
    }

    /// Puts the pod, whose shared parts are interned, in the place of an older one or a new one.
    pub(super) fn put(&mut self, old: Option<PodId>, pod: Pod, changes: &mut Changes) -> PodId {
        let Some(id) = old else {
            let name = pod.name.clone();
            let id = self.seat(pod, changes);
            self.by_name.insert(name, id);
            return id;
        };
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
        let entry = self.slots.vacant_entry();
        let id = PodId::new(entry.key());
        let (cohort, place, is_new) =
            self.cohorts.join(id, &pod.name.namespace, &pod.labels, &pod.ports);
        if is_new {
            changes.cohorts.insert(cohort);
        }
        entry.insert(Slot { pod, cohort, place });
        id
    }

    /// Takes in a whole list, sorted by name and without duplicates, as the first pods there are.
    pub(super) fn fill(&mut self, pods: Vec<Pod>, interner: &mut Interner) {
        let mut unused = Changes::default();
        let mut by_name = Vec::with_capacity(pods.len());
        for mut pod in pods {
            if !self.cohorts.knows(&pod.name.namespace, &pod.labels, &pod.ports) {
                interner.share_pod(&mut pod);
            }
            let name = pod.name.clone();
            by_name.push((name, self.seat(pod, &mut unused)));
        }
        self.by_name = by_name.into_iter().collect();
    }

    /// Notes the addresses of all pods at once.
    pub(super) fn hold_all(&mut self, mut held: Vec<(Addr, PodId)>) {
        held.sort_unstable();
        let holders = held.chunk_by(|(one, _), (other, _)| one == other);
        self.by_address = holders
            .filter_map(|same| Some((same.first()?.0, same.iter().map(|(_, id)| *id).collect())))
            .collect();
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = (PodId, &Pod)> {
        self.slots.iter().map(|(index, slot)| (PodId::new(index), &slot.pod))
    }

    pub(super) fn remove(&mut self, id: PodId, changes: &mut Changes) {
        let Some(slot) = self.slots.try_remove(id.index()) else { return };
        self.by_name.remove(&slot.pod.name);
        self.leave(slot.cohort, slot.place, changes);
    }

    fn leave(&mut self, cohort: CohortId, place: usize, changes: &mut Changes) {
        let (moved, is_gone) = self.cohorts.leave(cohort, place);
        if let Some(slot) = moved.and_then(|moved| self.slots.get_mut(moved.index())) {
            slot.place = place;
        }
        if is_gone {
            changes.cohorts.insert(cohort);
        }
    }

    /// Notes that a pod holds these addresses.
    pub(super) fn hold(&mut self, id: PodId, addresses: &[IpAddr]) {
        for address in addresses {
            let holders = self.by_address.entry(Addr::from(*address)).or_default();
            if !holders.contains(&id) {
                holders.push(id);
            }
        }
    }

    /// Undoes [`Self::hold`].
    pub(super) fn let_go(&mut self, id: PodId, addresses: &[IpAddr]) {
        for address in addresses {
            let addr = Addr::from(*address);
            if let Some(holders) = self.by_address.get_mut(&addr) {
                holders.retain(|holder| *holder != id);
                if holders.is_empty() {
                    self.by_address.remove(&addr);
                }
            }
        }
    }

    /// All pods that say that they hold an address.
    pub(super) fn holders(&self, addr: Addr) -> impl Iterator<Item = PodId> {
        self.by_address.get(&addr).into_iter().flatten().copied()
    }

    /// The pod that holds an address: of several, the newest.
    pub(super) fn owner(&self, addr: Addr) -> Option<PodId> {
        self.newest(self.by_address.get(&addr)?)
    }

    fn newest(&self, holders: &[PodId]) -> Option<PodId> {
        if let [only] = holders {
            return Some(*only);
        }
        holders
            .iter()
            .copied()
            .max_by_key(|id| self.at(*id).map(|pod| (pod.created_s, &pod.uid, &pod.name)))
    }

    /// Every address in a range that a pod holds, with its owner.
    pub(super) fn owned(&self, range: RangeInclusive<Addr>) -> impl Iterator<Item = (Addr, PodId)> {
        self.by_address
            .range(range)
            .filter_map(|(addr, holders)| Some((*addr, self.newest(holders)?)))
    }
}
