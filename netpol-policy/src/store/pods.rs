//! All pods: by name, by address, by label class.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use netpol_common::addr::Addr;

use super::address_owners::{AddressOwners, Holding};
use super::changes::Changes;
use super::label_classes::{Content, LabelClassId, LabelClasses};
use crate::model::{Object, ObjectName, Pod};

/// Number of a pod, used again after the pod is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PodId(u32);

impl PodId {
    fn new(index: usize) -> Self {
        // More than four billion pods do not fit into memory.
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    pub(super) fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// The table of pods.
///
/// Addresses are used again after a pod ends, and the event of the end can come late, so the newest of several owners counts.
/// Between pods of the same age uid and name decide, so that the order of events does not matter.
#[derive(Clone, Debug, Default)]
pub(super) struct Pods {
    /// By their numbers; `None` where a number is free.
    slots: Vec<Option<Pod>>,
    free: Vec<PodId>,
    hasher: DefaultHashBuilder,
    by_name: HashTable<PodId>,
    pub(super) owners: AddressOwners,
    /// The owners of addresses that only their nodes publish. None of these addresses is in `owners`.
    pub(super) published: BTreeMap<Addr, PodId>,
    pub(super) label_classes: LabelClasses,
    /// Addresses that host-network pods report, which are those of nodes, with the number of these pods.
    of_nodes: BTreeMap<IpAddr, usize>,
    /// The host-network pods.
    on_host: BTreeSet<PodId>,
    /// Grows with each address that is added to the map or leaves it.
    pub(super) n_node_changes: u64,
}

impl Pods {
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn id(&self, name: &ObjectName) -> Option<PodId> {
        let is_it = |id: &PodId| self.at(*id).is_some_and(|pod| pod.name == *name);
        self.by_name.find(self.hasher.hash_one(name), is_it).copied()
    }

    pub(super) fn at(&self, id: PodId) -> Option<&Pod> {
        at(&self.slots, id)
    }

    pub(super) fn get(&self, name: &ObjectName) -> Option<&Pod> {
        self.at(self.id(name)?)
    }

    pub(super) fn label_class(&self, id: PodId) -> Option<LabelClassId> {
        self.at(id)?;
        self.label_classes.of_pod(id)
    }

    /// The addresses of nodes that run host-network pods.
    pub(super) fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.of_nodes.keys().copied()
    }

    /// Whether a host-network pod reports the address.
    pub(super) fn is_node_address(&self, address: IpAddr) -> bool {
        self.of_nodes.contains_key(&address)
    }

    /// The host-network pods, in no particular order.
    pub(super) fn on_host(&self) -> impl Iterator<Item = &Pod> {
        self.on_host.iter().filter_map(|id| self.at(*id))
    }

    /// Counts the addresses of a host-network pod that is stored.
    fn count(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            let n_pods = self.of_nodes.entry(*address).or_default();
            self.n_node_changes += u64::from(*n_pods == 0);
            *n_pods += 1;
        }
    }

    /// Undoes [`Self::count`] for a pod that is stored no longer.
    fn discount(&mut self, pod: &Pod) {
        for address in pod.reported_addresses.iter().filter(|_| pod.host_network) {
            if let Some(n_pods) = self.of_nodes.get_mut(address) {
                *n_pods -= 1;
                if *n_pods == 0 {
                    self.of_nodes.remove(address);
                    self.n_node_changes += 1;
                }
            }
        }
    }

    /// All pods, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Pod> {
        sorted(self.unsorted())
    }

    /// All pods, in no particular order.
    pub(super) fn unsorted(&self) -> impl Iterator<Item = &Pod> {
        self.slots.iter().flatten()
    }

    /// The pods of a namespace, by name.
    pub(super) fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        let label_classes = self.label_classes.of_namespace(namespace).iter();
        let ids = label_classes.flat_map(|id| self.label_classes.pods(*id));
        sorted(ids.filter_map(|id| self.at(id)))
    }

    /// Stores a pod with interned parts, instead of an older one if there is one.
    pub(super) fn put(&mut self, old: Option<PodId>, pod: Pod, changes: &mut Changes) -> PodId {
        let label_class = self.label_classes.known(Content::of(&pod));
        let id = old.unwrap_or_else(|| {
            self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                PodId::new(self.slots.len() - 1)
            })
        });
        if let Some(before) = self.slots.get_mut(id.index()).and_then(Option::take) {
            self.discount(&before);
        }
        if pod.host_network {
            self.count(&pod.reported_addresses);
            self.on_host.insert(id);
        } else {
            self.on_host.remove(&id);
        }
        let Some(slot) = self.slots.get_mut(id.index()) else { return id };
        let pod = &*slot.insert(pod);
        if old.is_some() {
            if label_class.is_some() && label_class == self.label_classes.of_pod(id) {
                return id;
            }
            changes.label_classes.extend(self.label_classes.leave(id));
        }
        match label_class {
            Some(label_class) => self.label_classes.join(id, label_class),
            None => drop(changes.label_classes.insert(self.label_classes.found(id, pod))),
        }
        if old.is_none() {
            let Self { slots, hasher, by_name, .. } = self;
            let name_hash = name_hash(slots, hasher);
            by_name.insert_unique(name_hash(&id), id, name_hash);
        }
        id
    }

    /// Stores a whole list of pods with interned parts as the first pods; of several pods with one name the last counts. They
    /// own the addresses that the API reports.
    pub(super) fn fill(&mut self, objects: Vec<Object>) {
        let slot = |object| if let Object::Pod(pod) = object { Some(Some(pod)) } else { None };
        // They are not moved: touching new memory would cost as much as all the rest.
        self.slots = objects.into_iter().filter_map(slot).collect();
        self.free.clear();
        let Self { slots, free, hasher, by_name, owners, label_classes, .. } = self;
        by_name.reserve(slots.len(), name_hash(slots, hasher));
        owners.reserve(slots.iter().flatten().map(|pod| pod.addresses().len()).sum());
        label_classes.reserve(slots.len());
        // Pods of one label class are mostly adjacent.
        let mut latest = None;
        for id in (0..slots.len()).map(PodId::new) {
            let Some(pod) = at(slots, id) else { continue };
            let is_it = |known: &PodId| at(slots, *known).is_some_and(|of| of.name == pod.name);
            let known = by_name.entry(hasher.hash_one(&pod.name), is_it, name_hash(slots, hasher));
            let old = match known {
                Entry::Vacant(entry) => {
                    entry.insert(id);
                    None
                }
                Entry::Occupied(mut entry) => Some(std::mem::replace(entry.get_mut(), id)),
            };
            // Not copied first: reading addresses that were written just before in smaller parts stalls the processor.
            owners.hold(id, pod.addresses());
            let content = Content::of(pod);
            let alike =
                latest.filter(|(known, _)| *known == content).map(|(_, label_class)| label_class);
            let label_class = match alike.or_else(|| label_classes.known(content)) {
                Some(label_class) => {
                    label_classes.join(id, label_class);
                    label_class
                }
                None => label_classes.found(id, pod),
            };
            latest = Some((content, label_class));
            if let Some(old) = old {
                owners.let_go(old, at(slots, old).map_or(&[], Pod::addresses));
                free.push(old);
                // The label class may have lost its last pod.
                label_classes.leave(old);
                latest = None;
                if let Some(slot) = slots.get_mut(old.index()) {
                    *slot = None;
                }
            }
        }
        let of_nodes = self.slots.iter().flatten().filter(|pod| pod.host_network);
        let of_nodes: Vec<_> = of_nodes.flat_map(|pod| &*pod.reported_addresses).copied().collect();
        self.count(&of_nodes);
        let ids = (0..self.slots.len()).map(PodId::new);
        let on_host = |id: &PodId| self.at(*id).is_some_and(|pod| pod.host_network);
        self.on_host = ids.filter(on_host).collect();
    }

    pub(super) fn remove(&mut self, id: PodId, changes: &mut Changes) {
        let slot = self.slots.get_mut(id.index());
        let Some(pod) = slot.and_then(Option::take) else { return };
        self.discount(&pod);
        self.on_host.remove(&id);
        self.free.push(id);
        let hash = self.hasher.hash_one(&pod.name);
        if let Ok(entry) = self.by_name.find_entry(hash, |known| *known == id) {
            entry.remove();
        }
        changes.label_classes.extend(self.label_classes.leave(id));
    }

    /// The owner of an address: the newest of several pods.
    pub(super) fn owner(&self, addr: Addr) -> Option<PodId> {
        let mut owners = self.owners.of(addr);
        let Some(first) = owners.next() else { return self.published.get(&addr).copied() };
        match owners.next() {
            None => Some(first),
            Some(second) => self.newest([first, second].into_iter().chain(owners)),
        }
    }

    /// Whether a pod that reports an address owns it.
    pub(super) fn owns(&self, pod: PodId, addr: Addr) -> bool {
        !self.owners.are_contested() || self.owner(addr) == Some(pod)
    }

    /// The newest of several pods.
    pub(super) fn newest(&self, owners: impl Iterator<Item = PodId>) -> Option<PodId> {
        owners.max_by_key(|id| self.at(*id).map(|pod| (pod.created_s, &pod.uid, &pod.name)))
    }

    /// Every address with its owner, in no particular order.
    pub(super) fn owned(&self) -> impl Iterator<Item = (Addr, PodId)> {
        let held = self.owners.iter().filter(|held| self.owns(held.pod, held.addr));
        let published = self.published.iter().map(|(addr, pod)| (*addr, *pod));
        held.map(|held| (held.addr, held.pod)).chain(published)
    }

    /// The part of [`Self::owned`] in these ranges, which are sorted and disjoint.
    pub(super) fn owned_within(
        &self,
        ranges: &[RangeInclusive<Addr>],
    ) -> impl Iterator<Item = (Addr, PodId)> {
        let is_within = |addr: Addr| {
            let before = ranges.partition_point(|range| *range.end() < addr);
            ranges.get(before).is_some_and(|range| range.contains(&addr))
        };
        let held = self.owners.iter().filter(move |held: &&Holding| is_within(held.addr));
        let held = held.filter(|held| self.owns(held.pod, held.addr));
        let published = self.published.iter().filter(move |(addr, _)| is_within(**addr));
        let published = published.map(|(addr, pod)| (*addr, *pod));
        held.map(|held| (held.addr, held.pod)).chain(published)
    }
}

fn at(slots: &[Option<Pod>], id: PodId) -> Option<&Pod> {
    slots.get(id.index())?.as_ref()
}

fn name_hash(slots: &[Option<Pod>], hasher: &DefaultHashBuilder) -> impl Fn(&PodId) -> u64 {
    |id| at(slots, *id).map_or(0, |pod| hasher.hash_one(&pod.name))
}

fn sorted<'a>(pods: impl Iterator<Item = &'a Pod>) -> impl Iterator<Item = &'a Pod> {
    let mut pods: Vec<&Pod> = pods.collect();
    pods.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    pods.into_iter()
}
