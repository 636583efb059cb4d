//! Pods and ports that no policy distinguishes.
//!
//! In: a cluster and its pods. Out: the group of each pod and of each port: connections between the same groups have the same
//! verdict. Must not: evaluate policies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, Identity};
use netpol_common::keys::AllowKey;

use super::cluster::Cluster;
use super::ranges;
use crate::compile::{AllowMap, AllowMapKey};
use crate::dataplane::identity_of;
use crate::model::{ObjectName, Pod, Transport};
use crate::resolve::{PolicyRule, PortSet, Resolver, RuleList, TransportPorts};
use crate::store::LabelClassId;

/// What the verdicts on connections between a pod and other pods depend on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum GroupKey {
    /// A pod on the host's network, which has the addresses of its node, or one that does not exist.
    Single(ObjectName),
    /// With compiled maps: the identity of each address and whether it is deferred, and the numbers of the contents of its
    /// allow maps with the entry of the endpoint.
    Maps { addresses: Vec<(bool, Identity, bool)>, allow: [Option<usize>; 2], endpoint: [u8; 5] },
    /// Without maps: the label class, and for each address the range that no block divides.
    Objects { label_class: Option<LabelClassId>, addresses: Vec<(bool, usize)> },
}

/// Numbers of the different contents of allow maps, without the rules that the verdicts come from.
#[derive(Default)]
struct AllowMaps {
    /// By the memory address of the map: equal maps are mostly shared.
    by_address: BTreeMap<usize, usize>,
    by_content: BTreeMap<Vec<(AllowKey, u8)>, usize>,
}

impl AllowMaps {
    fn number(&mut self, map: &Arc<AllowMap>) -> usize {
        let Self { by_address, by_content } = self;
        *by_address.entry(Arc::as_ptr(map).addr()).or_insert_with(|| {
            let n_known = by_content.len();
            let content = map.iter().map(|(key, value)| (*key, value.verdict)).collect();
            *by_content.entry(content).or_insert(n_known)
        })
    }
}

impl Cluster {
    /// What the verdicts on the connections of these pods with other pods depend on.
    pub(super) fn group_keys(&self, pods: &[ObjectName]) -> Vec<GroupKey> {
        let state = self.state();
        let starts = if self.is_compiled() { Vec::new() } else { ranges::starts(state) };
        let mut maps = AllowMaps::default();
        let keys = pods.iter().map(|name| match state.pod(name).filter(|pod| !pod.host_network) {
            None => GroupKey::Single(name.clone()),
            Some(pod) if self.is_compiled() => self.by_maps(pod, &mut maps),
            Some(pod) => {
                let of_address = |address: IpAddr| {
                    (
                        address.is_ipv4(),
                        starts.partition_point(|start| *start <= Addr::from(address)),
                    )
                };
                GroupKey::Objects {
                    label_class: state.label_class_of(pod),
                    addresses: state.held_addresses(pod).map(of_address).collect(),
                }
            }
        });
        keys.collect()
    }

    fn by_maps(&self, pod: &Pod, maps: &mut AllowMaps) -> GroupKey {
        let map_state = self.map_state();
        let addresses = self.state().held_addresses(pod).map(|address| {
            let addr = Addr::from(address);
            let is_deferred = map_state.defer.contains(&addr);
            (address.is_ipv4(), identity_of(map_state, addr), is_deferred)
        });
        let addresses = addresses.collect();
        let Some(ifindex) = self.interface_of(pod) else {
            return GroupKey::Maps { addresses, allow: [None, None], endpoint: [0; 5] };
        };
        let allow = Direction::ALL.map(|direction| {
            let map = map_state.allow.get(&AllowMapKey::new(ifindex, direction));
            map.map(|map| maps.number(map))
        });
        let value = map_state.endpoints.get(&ifindex).map(|endpoint| endpoint.value);
        let endpoint = value.map_or([0; 5], |value| {
            let has_mark = u8::from(value.egress_mark != 0);
            [value.state, value.isolated, value.audited, value.traits, has_mark]
        });
        GroupKey::Maps { addresses, allow, endpoint }
    }
}

/// The ports of each protocol, sorted, at which a range of ports of some rule begins or has ended.
pub(super) type PortStarts = BTreeMap<Transport, Vec<u16>>;

impl Cluster {
    /// For each of these pods the port starts of its policies, for each direction in the order of [`Direction::ALL`]. Pods that
    /// the same policies select share them.
    pub(super) fn port_starts(&self, pods: &[ObjectName]) -> Vec<[Arc<PortStarts>; 2]> {
        let state = self.state();
        let mut resolver = Resolver::default();
        resolver.begin();
        let nothing = Arc::new(PortStarts::new());
        // Each list is kept, so that its memory address stands for it.
        let mut known: BTreeMap<usize, (RuleList, Arc<PortStarts>)> = BTreeMap::new();
        let starts = pods.iter().map(|name| {
            let Some(pod) = state.pod(name) else {
                return [Arc::clone(&nothing), Arc::clone(&nothing)];
            };
            let policy = resolver.resolve(state, pod);
            Direction::ALL.map(|direction| {
                let rules = &policy.direction(direction).rules;
                let (_, starts) = known
                    .entry(rules.as_ptr().addr())
                    .or_insert_with(|| (Arc::clone(rules), Arc::new(starts_of(rules))));
                Arc::clone(starts)
            })
        });
        starts.collect()
    }
}

fn starts_of(rules: &[Arc<PolicyRule>]) -> PortStarts {
    let mut starts: BTreeMap<Transport, BTreeSet<u16>> = BTreeMap::new();
    for rule in rules {
        let PortSet::AnyOf(ports) = &rule.ports else { continue };
        for TransportPorts { transport, range } in ports {
            let Some(range) = range else { continue };
            let of_transport = starts.entry(*transport).or_default();
            of_transport.insert(range.first());
            of_transport.extend(range.last().checked_add(1));
        }
    }
    starts
        .into_iter()
        .map(|(transport, starts)| (transport, starts.into_iter().collect()))
        .collect()
}
