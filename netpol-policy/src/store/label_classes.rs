//! Classes of pods that every policy treats alike.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;

use super::label_index::{Candidates, LabelIndex, insert_sorted, remove_sorted};
use super::pods::PodId;
use crate::model::{ContainerPort, Labels, Pod, PortName, Selector, Transport};

/// Number of a label class, used again after its last pod is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelClassId(u32);

impl LabelClassId {
    fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Pods of one namespace with equal labels and ports: every selector and port name treats them alike.
#[derive(Clone, Debug)]
pub struct LabelClass {
    /// Their namespace.
    pub namespace: Arc<str>,
    /// Their labels.
    pub labels: Labels,
    /// The ports that their containers declare.
    pub ports: Arc<[ContainerPort]>,
    /// One of its pods; every label class has one.
    first: PodId,
    n_pods: usize,
}

impl LabelClass {
    /// Number of its pods.
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

/// The label class of a pod and its neighbours in the ring of the pods of the class. Adding or removing a pod allocates no
/// memory.
#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    label_class: LabelClassId,
    before: PodId,
    after: PodId,
}

/// Label classes, sorted.
type LabelClassIds = SmallVec<[LabelClassId; 4]>;
/// Port numbers, sorted.
type Numbers = SmallVec<[u16; 4]>;

/// All label classes, by the properties that policies select by.
#[derive(Clone, Debug, Default)]
pub(super) struct LabelClasses {
    slots: Slab<LabelClass>,
    /// By the numbers of pods; entries of unused numbers have no meaning.
    seats: Vec<Seat>,
    by_content: HashMap<Content, LabelClassId>,
    by_namespace: HashMap<Arc<str>, LabelClassIds>,
    by_label: LabelIndex<LabelClassId>,
    /// Label classes by port name, then by the numbers of that port.
    by_port_name: HashMap<(Transport, PortName), BTreeMap<Numbers, LabelClassIds>>,
}

/// The memory addresses of the parts of a label class: equal for equal content, because the parts are interned and the label
/// class keeps them alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Content([usize; 3]);

impl Content {
    /// That of a pod.
    pub(super) fn of(pod: &Pod) -> Self {
        Self::of_parts(&pod.name.namespace, &pod.labels, &pod.ports)
    }

    fn of_parts(namespace: &Arc<str>, labels: &Labels, ports: &Arc<[ContainerPort]>) -> Self {
        Self([namespace.as_ptr().addr(), labels.content_address(), ports.as_ptr().addr()])
    }
}

impl LabelClasses {
    pub(super) fn get(&self, id: LabelClassId) -> Option<&LabelClass> {
        self.slots.get(id.index())
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The label class of a pod that is in one.
    pub(super) fn of_pod(&self, pod: PodId) -> Option<LabelClassId> {
        self.seats.get(pod.index()).map(|seat| seat.label_class)
    }

    /// The pods of a label class, in no particular order.
    pub(super) fn pods(&self, id: LabelClassId) -> impl Iterator<Item = PodId> {
        let first = self.get(id).map(|label_class| label_class.first);
        std::iter::successors(first, move |pod| {
            let seat = self.seats.get(pod.index())?;
            (Some(seat.after) != first).then_some(seat.after)
        })
    }

    /// The label class with these interned parts.
    pub(super) fn known(&self, content: Content) -> Option<LabelClassId> {
        self.by_content.get(&content).copied()
    }

    /// Reserves capacity for pods with numbers below this.
    pub(super) fn reserve(&mut self, n_pods: usize) {
        if n_pods > self.seats.len() {
            self.seats.resize(n_pods, Seat::default());
        }
    }

    /// Makes a label class for a pod that is in none and whose interned parts no other pod has.
    pub(super) fn found(&mut self, id: PodId, pod: &Pod) -> LabelClassId {
        let Pod { name, labels, ports, .. } = pod;
        let index = self.slots.insert(LabelClass {
            namespace: Arc::clone(&name.namespace),
            labels: labels.clone(),
            ports: Arc::clone(ports),
            first: id,
            n_pods: 1,
        });
        // More than four billion label classes do not fit into memory.
        let label_class = LabelClassId(u32::try_from(index).unwrap_or(u32::MAX));
        self.set_seat(id, Seat { label_class, before: id, after: id });
        self.by_content.insert(Content::of(pod), label_class);
        insert_sorted(
            self.by_namespace.entry(Arc::clone(&name.namespace)).or_default(),
            label_class,
        );
        self.by_label.insert(labels, &label_class);
        for (key, numbers) in numbers_by_name(ports) {
            let by_numbers = self.by_port_name.entry(key).or_default();
            insert_sorted(by_numbers.entry(numbers).or_default(), label_class);
        }
        label_class
    }

    /// Adds a pod that is in no label class to one.
    pub(super) fn join(&mut self, pod: PodId, label_class: LabelClassId) {
        let Some(of) = self.slots.get_mut(label_class.index()) else { return };
        of.n_pods += 1;
        let after = of.first;
        let Some(before) = self.seats.get(after.index()).map(|seat| seat.before) else { return };
        self.set_seat(pod, Seat { label_class, before, after });
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

    /// Removes a pod from its label class. Returns the label class if that was its last pod.
    pub(super) fn leave(&mut self, pod: PodId) -> Option<LabelClassId> {
        let Seat { label_class: id, before, after } = *self.seats.get(pod.index())?;
        let label_class = self.slots.get_mut(id.index())?;
        if after != pod {
            label_class.first = after;
            label_class.n_pods -= 1;
            self.tie(before, after);
            return None;
        }
        let LabelClass { namespace, labels, ports, .. } = self.slots.remove(id.index());
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

    pub(super) fn iter(&self) -> impl Iterator<Item = (LabelClassId, &LabelClass)> {
        let ids = self.slots.iter();
        ids.map(|(index, label_class)| {
            (LabelClassId(u32::try_from(index).unwrap_or(u32::MAX)), label_class)
        })
    }

    pub(super) fn of_namespace(&self, namespace: &str) -> &[LabelClassId] {
        self.by_namespace.get(namespace).map_or(&[], SmallVec::as_slice)
    }

    pub(super) fn with_port_name(
        &self,
        transport: Transport,
        name: &PortName,
    ) -> impl Iterator<Item = (&[u16], &[LabelClassId])> {
        let by_numbers = self.by_port_name.get(&(transport, name.clone()));
        by_numbers.into_iter().flatten().map(|(numbers, ids)| (&**numbers, &**ids))
    }

    pub(super) fn candidates<'a>(
        &'a self,
        selector: &'a Selector,
    ) -> Option<Candidates<'a, LabelClassId>> {
        self.by_label.candidates(selector)
    }
}

/// The numbers of each port name of each protocol, by name.
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
