//! Sets of peers and their members.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::label_classes;
use super::ports::{PortSet, TransportPorts};
use crate::model::{
    IpBlock, Labels, NamespaceMatch, Peer, Pod, PortName, PortRange, PortSpec, Ports, Selector,
    Transport,
};
use crate::store::{ClusterState, LabelClass, LabelClassId};

/// The whole `from` or `to` list of one rule: its peers are treated alike.
///
/// A set is defined by its policy, not by its members: pods come and go without changing it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerSet {
    base: PeerBase,
    filter: Option<PortFilter>,
}

/// The peers as the rule lists them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerBase {
    /// No list: every address. Occurs only with a filter, so that only pods are members.
    Everybody,
    /// These, sorted.
    AnyOf {
        /// The namespace of the policy, if a peer refers to it; else empty, so that equal lists of different namespaces are one
        /// set.
        namespace: Arc<str>,
        /// The items; nodes are listed as blocks of one address.
        peers: Vec<Peer>,
    },
}

/// Restricts a set to pods that resolve these port names to exactly these numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortFilter {
    names: BTreeSet<(Transport, PortName)>,
    numbers: BTreeSet<(Transport, u16)>,
}

impl PeerBase {
    /// The peers of a policy in `namespace`.
    pub fn any_of(namespace: &Arc<str>, peers: &[Peer]) -> Self {
        let mut sorted: Vec<&Peer> = peers.iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let means_own =
            |peer: &&Peer| matches!(peer, Peer::Pods { namespaces: NamespaceMatch::Own, .. });
        let namespace =
            if sorted.iter().any(means_own) { Arc::clone(namespace) } else { Arc::from("") };
        Self::AnyOf { namespace, peers: sorted.into_iter().cloned().collect() }
    }

    /// The addresses of pods in the list, blocks left out, each with its pod.
    fn pod_addresses<'a>(&self, state: &'a ClusterState) -> Vec<(IpAddr, &'a Pod)> {
        match self {
            Self::Everybody => state.owned_addresses().collect(),
            Self::AnyOf { namespace, peers } => {
                let mut found = Vec::new();
                for peer in peers {
                    if let Peer::Pods { namespaces, pods } = peer {
                        collect_pods(state, namespace, namespaces, pods, &mut found);
                    }
                }
                found
            }
        }
    }

    fn blocks(&self) -> impl Iterator<Item = &IpBlock> {
        let peers = match self {
            Self::Everybody => [].as_slice(),
            Self::AnyOf { peers, .. } => peers.as_slice(),
        };
        peers.iter().filter_map(|peer| match peer {
            Peer::IpBlock(block) => Some(block),
            Peer::Pods { .. } | Peer::Nodes(_) => None,
        })
    }
}

fn collect_pods<'a>(
    state: &'a ClusterState,
    own_namespace: &str,
    namespaces: &NamespaceMatch,
    pods: &Selector,
    found: &mut Vec<(IpAddr, &'a Pod)>,
) {
    let mut take = |candidates: &mut dyn Iterator<Item = &'a Pod>| {
        for pod in candidates.filter(|pod| pods.matches(&pod.labels)) {
            found.extend(state.held_addresses(pod).map(|address| (address, pod)));
        }
    };
    match namespaces {
        NamespaceMatch::Own => take(&mut state.pods_in(own_namespace)),
        NamespaceMatch::Selected(selector) if selector.is_everything() => take(&mut state.pods()),
        NamespaceMatch::Selected(selector) => {
            for namespace in state.namespaces() {
                if selects_namespace(selector, Some(&namespace.labels)) {
                    take(&mut state.pods_in(&namespace.name));
                }
            }
        }
    }
}

/// Whether a namespace selector selects a namespace with these labels. Only the empty selector selects a namespace that is not
/// known yet.
pub(super) fn selects_namespace(selector: &Selector, labels: Option<&Labels>) -> bool {
    selector.is_everything() || labels.is_some_and(|labels| selector.matches(labels))
}

impl PeerSet {
    /// The peers of a rule without port names.
    pub(crate) fn unfiltered(base: PeerBase) -> Self {
        Self { base, filter: None }
    }

    /// How many address blocks and exceptions [`Self::blocks`] have.
    pub fn n_blocks(&self) -> usize {
        self.blocks().map(|block| 1 + block.except.len()).sum()
    }

    /// Whether it can never have a member.
    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.base, PeerBase::AnyOf { peers, .. } if peers.is_empty())
    }

    /// The addresses that are in the set because of the pods that own them, without those in [`PeerSet::blocks`].
    pub fn pod_addresses(&self, state: &ClusterState) -> BTreeSet<IpAddr> {
        match &self.filter {
            None => {
                self.base.pod_addresses(state).into_iter().map(|(address, _)| address).collect()
            }
            Some(filter) => candidates(state, &self.base)
                .into_iter()
                .filter(|(_, pod)| filter.numbers_on(pod) == filter.numbers)
                .map(|(address, _)| address)
                .collect(),
        }
    }

    /// The label classes whose pods are in the set regardless of their addresses, sorted.
    pub fn label_classes(&self, state: &ClusterState) -> Vec<LabelClassId> {
        let mut found = match &self.base {
            PeerBase::Everybody => state.label_classes().map(|(id, _)| id).collect(),
            PeerBase::AnyOf { namespace, peers } => {
                let mut found = Vec::new();
                for peer in peers {
                    if let Peer::Pods { namespaces, pods } = peer {
                        label_classes::select(state, namespace, namespaces, pods, &mut found);
                    }
                }
                found
            }
        };
        if self.filter.is_some() {
            found.retain(|id| state.label_class(*id).is_some_and(|of| self.numbers_alike(of)));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The work of [`Self::label_classes`], at most: comparisons of a requirement with the labels of a label class or a
    /// namespace. It depends on the current objects only.
    pub fn n_comparisons(&self, state: &ClusterState) -> usize {
        let n_comparisons = match &self.base {
            PeerBase::Everybody => state.n_label_classes(),
            PeerBase::AnyOf { namespace, peers } => {
                let of_peer = |peer: &Peer| match peer {
                    Peer::IpBlock(_) | Peer::Nodes(_) => 0,
                    Peer::Pods { namespaces, pods } => {
                        label_classes::n_comparisons(state, namespace, namespaces, pods)
                    }
                };
                peers.iter().map(of_peer).fold(0, usize::saturating_add)
            }
        };
        n_comparisons.saturating_mul(self.n_passes())
    }

    /// The most by which one more label class, or other labels of one namespace, can raise [`Self::n_comparisons`].
    pub fn n_requirements(&self) -> usize {
        let n_requirements: usize = match &self.base {
            PeerBase::Everybody => 1,
            PeerBase::AnyOf { peers, .. } => peers
                .iter()
                .map(|peer| match peer {
                    Peer::IpBlock(_) | Peer::Nodes(_) => 0,
                    Peer::Pods { namespaces, pods } => {
                        label_classes::n_requirements(namespaces, pods)
                    }
                })
                .sum(),
        };
        n_requirements.saturating_mul(self.n_passes())
    }

    /// Comparisons of each label class that a peer selects: with the peer and with each port name.
    fn n_passes(&self) -> usize {
        1 + self.filter.as_ref().map_or(0, |filter| filter.names.len())
    }

    /// Whether [`Self::label_classes`] contains this one.
    pub fn holds(&self, state: &ClusterState, label_class: &LabelClass) -> bool {
        let is_peer = match &self.base {
            PeerBase::Everybody => true,
            PeerBase::AnyOf { namespace, peers } => peers.iter().any(|peer| match peer {
                Peer::IpBlock(_) | Peer::Nodes(_) => false,
                Peer::Pods { namespaces, pods } => {
                    label_classes::is_selected(state, namespace, namespaces, pods, label_class)
                }
            }),
        };
        is_peer && self.numbers_alike(label_class)
    }

    /// Whether pods of a namespace can be in the set because of their labels or port names.
    pub fn concerns(&self, state: &ClusterState, namespace: &str) -> bool {
        match &self.base {
            PeerBase::Everybody => true,
            PeerBase::AnyOf { namespace: own, peers } => peers.iter().any(|peer| match peer {
                Peer::IpBlock(_) | Peer::Nodes(_) => false,
                Peer::Pods { namespaces: NamespaceMatch::Own, .. } => **own == *namespace,
                Peer::Pods { namespaces: NamespaceMatch::Selected(selector), .. } => {
                    selects_namespace(selector, state.namespace_labels(namespace))
                }
            }),
        }
    }

    /// Whether pods with the port numbers of this label class pass the filter.
    fn numbers_alike(&self, label_class: &LabelClass) -> bool {
        self.filter.as_ref().is_none_or(|of| of.numbers_on_label_class(label_class) == of.numbers)
    }

    /// The blocks of a set with a port filter: their addresses are in the set if a pod that passes the filter owns them.
    pub fn filtered_blocks(&self) -> impl Iterator<Item = &IpBlock> {
        let is_filtered = self.filter.is_some();
        self.base.blocks().filter(move |_| is_filtered)
    }

    /// Whether an address of [`Self::filtered_blocks`] is in the set if a pod of this label class owns it.
    pub fn passes_filter(&self, label_class: &LabelClass) -> bool {
        self.filter.is_some() && self.numbers_alike(label_class)
    }

    /// The blocks whose addresses are in the set regardless of their owners.
    pub fn blocks(&self) -> impl Iterator<Item = &IpBlock> {
        let is_filtered = self.filter.is_some();
        self.base.blocks().filter(move |_| !is_filtered)
    }
}

impl PortFilter {
    fn numbers_on(&self, pod: &Pod) -> BTreeSet<(Transport, u16)> {
        self.numbers(|name, transport| pod.named_ports(name, transport).collect())
    }

    fn numbers_on_label_class(&self, label_class: &LabelClass) -> BTreeSet<(Transport, u16)> {
        self.numbers(|name, transport| label_class.named_ports(name, transport).collect())
    }

    fn numbers(
        &self,
        named_ports: impl Fn(&PortName, Transport) -> Vec<u16>,
    ) -> BTreeSet<(Transport, u16)> {
        let mut numbers = BTreeSet::new();
        for (transport, name) in &self.names {
            let found = named_ports(name, *transport);
            numbers.extend(found.into_iter().map(|number| (*transport, number)));
        }
        numbers
    }
}

/// The pods that port names are resolved on: those that a selector selects, and those with an address in a block.
fn candidates<'a>(state: &'a ClusterState, base: &PeerBase) -> Vec<(IpAddr, &'a Pod)> {
    let mut found = base.pod_addresses(state);
    for (address, pod) in state.owned_addresses() {
        if base.blocks().any(|block| block.contains(address)) {
            found.push((address, pod));
        }
    }
    found
}

/// The port names of a rule with the distinct sets of numbers that the pods of the cluster give them. Pods without any of the
/// names count for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Numberings {
    names: BTreeSet<(Transport, PortName)>,
    number_sets: BTreeSet<BTreeSet<(Transport, u16)>>,
}

impl Numberings {
    /// Of the names in `ports`.
    pub(super) fn new(state: &ClusterState, ports: &Ports) -> Self {
        let mut names = BTreeSet::new();
        if let Ports::AnyOf(items) = ports {
            for item in items {
                if let PortSpec::Named(name) = &item.ports {
                    names.insert((item.transport, name.clone()));
                }
            }
        }
        let filter = PortFilter { names, numbers: BTreeSet::new() };
        let mut number_sets = BTreeSet::new();
        for (transport, name) in &filter.names {
            for (numbers, label_classes) in state.label_classes_with_port(*transport, name) {
                if filter.names.len() == 1 {
                    number_sets
                        .insert(numbers.iter().map(|number| (*transport, *number)).collect());
                } else {
                    let label_classes =
                        label_classes.iter().filter_map(|id| state.label_class(*id));
                    number_sets.extend(
                        label_classes.map(|label_class| filter.numbers_on_label_class(label_class)),
                    );
                }
            }
        }
        Self { names: filter.names, number_sets }
    }

    /// The pods of `base`, split by the numbers that they give the names, with the ports that result for each part. A part can
    /// be empty, because the numbers are those of all pods of the cluster.
    pub(super) fn split(&self, base: &PeerBase) -> impl Iterator<Item = (PeerSet, PortSet)> {
        self.number_sets.iter().map(|numbers| {
            let open = numbers.iter().filter_map(|(transport, number)| {
                let range = Some(PortRange::single(*number)?);
                Some(TransportPorts { transport: *transport, range })
            });
            let open = PortSet::AnyOf(open.collect());
            let filter = PortFilter { names: self.names.clone(), numbers: numbers.clone() };
            (PeerSet { base: base.clone(), filter: Some(filter) }, open)
        })
    }
}
