//! Sets of peers, and who is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::ports::{self, PortSet, TransportPorts};
use crate::model::{
    IpBlock, Labels, NamespaceMatch, Peer, Pod, PortName, PortSpec, Ports, Selector, Transport,
};
use crate::store::ClusterState;

/// The whole `from` or `to` list of one rule: its peers are treated alike.
///
/// Defined by what the policy says, not by who is in it: pods come and go without changing it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerSet {
    base: PeerBase,
    filter: Option<PortFilter>,
}

/// The peers as the rule lists them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerBase {
    /// No list: every address. Only with a filter, which only pods can pass.
    Everybody,
    /// These, sorted.
    AnyOf {
        /// The policy's namespace, for peers that mean it; empty if none does, so that equal lists of different
        /// namespaces are one set.
        namespace: Arc<str>,
        /// The items.
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
        let sorted: BTreeSet<&Peer> = peers.iter().collect();
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
            Peer::Pods { .. } => None,
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

/// Whether a namespace selector selects a namespace with these labels; one that has not been seen is selected only
/// by the empty selector, since nothing else can be known of it.
pub(super) fn selects_namespace(selector: &Selector, labels: Option<&Labels>) -> bool {
    selector.is_everything() || labels.is_some_and(|labels| selector.matches(labels))
}

impl PeerSet {
    /// The peers of a rule without port names.
    pub(super) fn unfiltered(base: PeerBase) -> Self {
        Self { base, filter: None }
    }

    /// Whether nobody can ever be in it.
    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.base, PeerBase::AnyOf { peers, .. } if peers.is_empty())
    }

    /// The addresses that are in the set because of the pod that holds them. Addresses in
    /// [`PeerSet::blocks`] are not listed here.
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

    /// The blocks whose addresses are in the set, whoever holds them.
    pub fn blocks(&self) -> impl Iterator<Item = &IpBlock> {
        let is_filtered = self.filter.is_some();
        self.base.blocks().filter(move |_| !is_filtered)
    }
}

impl PortFilter {
    fn numbers_on(&self, pod: &Pod) -> BTreeSet<(Transport, u16)> {
        let mut numbers = BTreeSet::new();
        for (transport, name) in &self.names {
            numbers.extend(pod.named_ports(name, *transport).map(|number| (*transport, number)));
        }
        numbers
    }
}

/// The pods that port names can be resolved on: by selector, or by holding an address of a block.
fn candidates<'a>(state: &'a ClusterState, base: &PeerBase) -> Vec<(IpAddr, &'a Pod)> {
    let mut found = base.pod_addresses(state);
    for (address, pod) in state.owned_addresses() {
        if base.blocks().any(|block| block.contains(address)) {
            found.push((address, pod));
        }
    }
    found
}

/// Splits the pods of `base` by the numbers that they give to the names in `ports`; pods without any of the names
/// are in no part.
pub(super) fn by_named_ports(
    state: &ClusterState,
    base: &PeerBase,
    ports: &Ports,
) -> Vec<(PeerSet, PortSet)> {
    let mut names = BTreeSet::new();
    if let Ports::AnyOf(items) = ports {
        for item in items {
            if let PortSpec::Named(name) = &item.ports {
                names.insert((item.transport, name.clone()));
            }
        }
    }
    let mut by_numbers: BTreeMap<BTreeSet<(Transport, u16)>, BTreeSet<TransportPorts>> =
        BTreeMap::new();
    let mut filter = PortFilter { names, numbers: BTreeSet::new() };
    for (_, pod) in candidates(state, base) {
        let numbers = filter.numbers_on(pod);
        if !numbers.is_empty() {
            by_numbers.entry(numbers).or_insert_with(|| ports::named(ports, pod));
        }
    }
    by_numbers
        .into_iter()
        .map(|(numbers, open)| {
            filter.numbers = numbers;
            (PeerSet { base: base.clone(), filter: Some(filter.clone()) }, PortSet::AnyOf(open))
        })
        .collect()
}
