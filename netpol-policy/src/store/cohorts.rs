//! Pods that no policy can tell apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;

use super::label_index::{Candidates, LabelIndex, insert_sorted, remove_sorted};
use super::pods::PodId;
use crate::model::{ContainerPort, Labels, Pod, PortName, Selector, Transport};

/// Number of a cohort, given again after its last pod has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CohortId(u32);

impl CohortId {
    fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Pods of one namespace with equal labels and ports: every selector and port name treats them alike.
#[derive(Clone, Debug)]
pub struct Cohort {
    /// Their namespace.
    pub namespace: Arc<str>,
    /// Their labels.
    pub labels: Labels,
    /// The ports that their containers declare.
    pub ports: Arc<[ContainerPort]>,
    /// One of its pods; there are no cohorts without.
    first: PodId,
    n_pods: usize,
}

impl Cohort {
    /// How many pods it has.
    pub fn n_pods(&self) -> usize {
        self.n_pods
    }

    /// The numbers that these pods give to a port name for one protocol.
    pub fn named_ports(&self, name: &PortName, transport: Transport) -> impl Iterator<Item = u16> {
        let ports = self.ports.iter();
        ports
            .filter(move |port| port.transport == transport && port.name.as_ref() == Some(name))
            .map(|port| port.number)
    }
}

/// Where a pod stands: its cohort, and its neighbours in the ring of the cohort's pods. So a pod that comes or goes costs
/// no memory.
#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    cohort: CohortId,
    before: PodId,
    after: PodId,
}

/// Cohorts, sorted.
type CohortIds = SmallVec<[CohortId; 4]>;
/// Port numbers, sorted.
type Numbers = SmallVec<[u16; 4]>;

/// All cohorts, by whatever a policy can ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct Cohorts {
    slots: Slab<Cohort>,
    /// By the numbers of pods; those that are not given mean nothing.
    seats: Vec<Seat>,
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
    /// That of a pod.
    pub(super) fn of(pod: &Pod) -> Self {
        Self::of_parts(&pod.name.namespace, &pod.labels, &pod.ports)
    }

    fn of_parts(namespace: &Arc<str>, labels: &Labels, ports: &Arc<[ContainerPort]>) -> Self {
        Self([namespace.as_ptr().addr(), labels.place(), ports.as_ptr().addr()])
    }
}

impl Cohorts {
    pub(super) fn get(&self, id: CohortId) -> Option<&Cohort> {
        self.slots.get(id.index())
    }

    /// The cohort of a pod that is in one.
    pub(super) fn of_pod(&self, pod: PodId) -> Option<CohortId> {
        self.seats.get(pod.index()).map(|seat| seat.cohort)
    }

    /// The pods of a cohort, in no order.
    pub(super) fn pods(&self, id: CohortId) -> impl Iterator<Item = PodId> {
        let first = self.get(id).map(|cohort| cohort.first);
        std::iter::successors(first, move |pod| {
            let seat = self.seats.get(pod.index())?;
            (Some(seat.after) != first).then_some(seat.after)
        })
    }

    /// The cohort that shares these parts: then they are interned.
    pub(super) fn known(&self, content: Content) -> Option<CohortId> {
        self.by_content.get(&content).copied()
    }

    /// Room for pods with numbers below this.
    pub(super) fn reserve(&mut self, n_pods: usize) {
        if n_pods > self.seats.len() {
            self.seats.resize(n_pods, Seat::default());
        }
    }

    /// Makes the cohort of a pod that is in none, whose parts, which are interned, no other pod shares.
    pub(super) fn found(&mut self, id: PodId, pod: &Pod) -> CohortId {
        let Pod { name, labels, ports, .. } = pod;
        let index = self.slots.insert(Cohort {
            namespace: Arc::clone(&name.namespace),
            labels: labels.clone(),
            ports: Arc::clone(ports),
            first: id,
            n_pods: 1,
        });
        // More than four thousand million cohorts do not fit into memory.
        let cohort = CohortId(u32::try_from(index).unwrap_or(u32::MAX));
        self.set_seat(id, Seat { cohort, before: id, after: id });
        self.by_content.insert(Content::of(pod), cohort);
        insert_sorted(self.by_namespace.entry(Arc::clone(&name.namespace)).or_default(), cohort);
        self.by_label.insert(labels, &cohort);
        for (key, numbers) in numbers_by_name(ports) {
            let by_numbers = self.by_port_name.entry(key).or_default();
            insert_sorted(by_numbers.entry(numbers).or_default(), cohort);
        }
        cohort
    }

    /// Puts a pod that is in no cohort into one.
    pub(super) fn join(&mut self, pod: PodId, cohort: CohortId) {
        let Some(of) = self.slots.get_mut(cohort.index()) else { return };
        of.n_pods += 1;
        let after = of.first;
        let Some(before) = self.seats.get(after.index()).map(|seat| seat.before) else { return };
        self.set_seat(pod, Seat { cohort, before, after });
        self.tie(before, pod);
        self.tie(pod, after);
    }

    fn set_seat(&mut self, pod: PodId, seat: Seat) {
        self.reserve(pod.index() + 1);
        if let Some(own) = self.seats.get_mut(pod.index()) {
            *own = seat;
        }
    }

    /// Makes two pods neighbours in the ring.
    fn tie(&mut self, one: PodId, next: PodId) {
        if let Some(seat) = self.seats.get_mut(one.index()) {
            seat.after = next;
        }
        if let Some(seat) = self.seats.get_mut(next.index()) {
            seat.before = one;
        }
    }

    /// Takes a pod out of its cohort. Returns the cohort if it is gone.
    pub(super) fn leave(&mut self, pod: PodId) -> Option<CohortId> {
        let Seat { cohort: id, before, after } = *self.seats.get(pod.index())?;
        let cohort = self.slots.get_mut(id.index())?;
        if after != pod {
            cohort.first = after;
            cohort.n_pods -= 1;
            self.tie(before, after);
            return None;
        }
        let Cohort { namespace, labels, ports, .. } = self.slots.remove(id.index());
        self.by_content.remove(&Content::of_parts(&namespace, &labels, &ports));
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
        Some(id)
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

    pub(super) fn candidates<'a>(
        &'a self,
        selector: &'a Selector,
    ) -> Option<Candidates<'a, CohortId>> {
        self.by_label.candidates(selector)
    }
}

/// What each port name of each protocol stands for, by name.
fn numbers_by_name(
    ports: &[ContainerPort],
) -> impl Iterator<Item = ((Transport, PortName), Numbers)> {
    let named =
        ports.iter().filter_map(|port| Some((port.transport, port.name.as_ref()?, port.number)));
    let mut named: SmallVec<[(Transport, &PortName, u16); 4]> = named.collect();
    named.sort_unstable();
    named.dedup();
    let mut rest = 0;
    std::iter::from_fn(move || {
        let of_all = named.get(rest..)?;
        let (transport, name, _) = *of_all.first()?;
        let alike =
            of_all.iter().take_while(|(of, its_name, _)| (*of, *its_name) == (transport, name));
        let numbers: Numbers = alike.map(|(_, _, number)| *number).collect();
        rest += numbers.len();
        Some(((transport, name.clone()), numbers))
    })
}
