//! Pods that no policy can tell apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;

use super::label_index::{Candidates, LabelIndex, insert_sorted, remove_sorted};
use super::pods::PodId;
use crate::model::{ContainerPort, Labels, PortName, Selector, Transport};

/// Number of a cohort, given again after its last pod has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CohortId(u32);

/// Pods of one namespace with equal labels and ports: every selector and port name treats them alike.
#[derive(Clone, Debug)]
pub struct Cohort {
    /// Their namespace.
    pub namespace: Arc<str>,
    /// Their labels.
    pub labels: Labels,
    /// The ports that their containers declare.
    pub ports: Arc<[ContainerPort]>,
    pods: SmallVec<[PodId; 4]>,
}

impl Cohort {
    /// The numbers that these pods give to a port name for one protocol.
    pub fn named_ports(&self, name: &PortName, transport: Transport) -> impl Iterator<Item = u16> {
        let ports = self.ports.iter();
        ports
            .filter(move |port| port.transport == transport && port.name.as_ref() == Some(name))
            .map(|port| port.number)
    }

    /// Its pods, in no order.
    pub(super) fn pods(&self) -> &[PodId] {
        &self.pods
    }
}

/// Cohorts, sorted.
type CohortIds = SmallVec<[CohortId; 4]>;
/// Port numbers, sorted.
type Numbers = SmallVec<[u16; 4]>;

/// All cohorts, by whatever a policy can ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct Cohorts {
    slots: Slab<Cohort>,
    by_content: HashMap<Content, CohortId>,
    by_namespace: HashMap<Arc<str>, CohortIds>,
    by_label: LabelIndex<CohortId>,
    /// Those with a port name, by the numbers that they give it.
    by_port_name: HashMap<(Transport, PortName), BTreeMap<Numbers, CohortIds>>,
}

/// Where the shared parts of a cohort lie: equal for equal content, since they are interned and the cohort holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Content([usize; 3]);

impl Content {
    pub(super) fn of(namespace: &Arc<str>, labels: &Labels, ports: &Arc<[ContainerPort]>) -> Self {
        Self([namespace.as_ptr().addr(), labels.place(), ports.as_ptr().addr()])
    }
}

impl Cohorts {
    pub(super) fn get(&self, id: CohortId) -> Option<&Cohort> {
        self.slots.get(usize::try_from(id.0).ok()?)
    }

    /// The cohort that shares these parts: then they are interned.
    pub(super) fn known(&self, content: Content) -> Option<CohortId> {
        self.by_content.get(&content).copied()
    }

    /// The cohort that shares these parts, which are interned, and whether it is new: then a pod must join it.
    pub(super) fn of(
        &mut self,
        namespace: &Arc<str>,
        labels: &Labels,
        ports: &Arc<[ContainerPort]>,
    ) -> (CohortId, bool) {
        let content = Content::of(namespace, labels, ports);
        if let Some(id) = self.known(content) {
            return (id, false);
        }
        let index = self.slots.insert(Cohort {
            namespace: Arc::clone(namespace),
            labels: labels.clone(),
            ports: Arc::clone(ports),
            pods: SmallVec::new(),
        });
        // More than four thousand million cohorts do not fit into memory.
        let id = CohortId(u32::try_from(index).unwrap_or(u32::MAX));
        self.by_content.insert(content, id);
        insert_sorted(self.by_namespace.entry(Arc::clone(namespace)).or_default(), id);
        self.by_label.insert(labels, &id);
        for (key, numbers) in numbers_by_name(ports) {
            let by_numbers = self.by_port_name.entry(key).or_default();
            insert_sorted(by_numbers.entry(numbers).or_default(), id);
        }
        (id, true)
    }

    /// Adds a pod to a cohort. Returns its place there.
    pub(super) fn join(&mut self, id: CohortId, pod: PodId) -> u32 {
        let cohort = usize::try_from(id.0).ok().and_then(|index| self.slots.get_mut(index));
        let Some(cohort) = cohort else { return u32::MAX };
        let place = u32::try_from(cohort.pods.len()).unwrap_or(u32::MAX);
        cohort.pods.push(pod);
        place
    }

    /// Removes the pod at a place of a cohort. Returns the pod that has its place now, and whether the cohort is gone.
    pub(super) fn leave(&mut self, id: CohortId, place: u32) -> (Option<PodId>, bool) {
        let Ok(index) = usize::try_from(id.0) else { return (None, false) };
        let Some(cohort) = self.slots.get_mut(index) else { return (None, false) };
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        if place < cohort.pods.len() {
            cohort.pods.swap_remove(place);
        }
        if !cohort.pods.is_empty() {
            return (cohort.pods.get(place).copied(), false);
        }
        let Cohort { namespace, labels, ports, pods: _ } = self.slots.remove(index);
        self.by_content.remove(&Content::of(&namespace, &labels, &ports));
        if let Some(ids) = self.by_namespace.get_mut(&namespace) {
            remove_sorted(ids, &id);
            if ids.is_empty() {
                self.by_namespace.remove(&namespace);
            }
        }
        self.by_label.remove(&labels, &id);
        for (key, numbers) in numbers_by_name(&ports) {
            let Some(by_numbers) = self.by_port_name.get_mut(&key) else { continue };
            if let Some(ids) = by_numbers.get_mut(&numbers) {
                remove_sorted(ids, &id);
                if ids.is_empty() {
                    by_numbers.remove(&numbers);
                }
            }
            if by_numbers.is_empty() {
                self.by_port_name.remove(&key);
            }
        }
        (None, true)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (CohortId, &Cohort)> {
        let ids = self.slots.iter();
        ids.map(|(index, cohort)| (CohortId(u32::try_from(index).unwrap_or(u32::MAX)), cohort))
    }

    pub(super) fn of_namespace(&self, namespace: &str) -> &[CohortId] {
        self.by_namespace.get(namespace).map_or(&[], SmallVec::as_slice)
    }

    pub(super) fn with_port_name(
        &self,
        transport: Transport,
        name: &PortName,
    ) -> impl Iterator<Item = (&[u16], &[CohortId])> {
        let by_numbers = self.by_port_name.get(&(transport, name.clone()));
        by_numbers.into_iter().flatten().map(|(numbers, ids)| (&**numbers, &**ids))
    }

    pub(super) fn candidates(&self, selector: &Selector) -> Option<Candidates<'_, CohortId>> {
        self.by_label.candidates(selector)
    }
}

fn numbers_by_name(ports: &[ContainerPort]) -> BTreeMap<(Transport, PortName), Numbers> {
    let mut by_name: BTreeMap<(Transport, PortName), Numbers> = BTreeMap::new();
    for port in ports {
        if let Some(name) = &port.name {
            let numbers = by_name.entry((port.transport, name.clone())).or_default();
            insert_sorted(numbers, port.number);
        }
    }
    by_name
}
