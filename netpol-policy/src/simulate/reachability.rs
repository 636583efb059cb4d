//! The verdicts on the connections between many pods.
//!
//! In: a cluster, and the sources and destinations. Out: the answer for each pair and port. Pairs and ports that the policies
//! do not distinguish are evaluated once. Must not: draw.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use netpol_common::ids::Direction;

use super::engine::DatapathError;
use super::groups::{GroupKey, PortStarts};
use super::offline::{OfflineCluster, Verdict};
use super::probe::{PodOrIp, PortChoice, Probe, Problem};
use crate::model::{ObjectName, Pod, Transport};
use crate::store::ClusterState;

/// Whether a connection is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// With no address family that both ends have, or there is no such connection.
    Denied,
    /// Depends on an address that is not known.
    Possible,
    /// Both ends have IPv4 and IPv6 addresses: with IPv4 only.
    OnlyIpv4,
    /// With IPv6 only.
    OnlyIpv6,
    /// With every address family that both ends have.
    Allowed,
}

/// Answers for the connections between peers of a cluster.
pub struct Reachability {
    cluster: OfflineCluster,
    peers: Vec<Peer>,
    /// The port starts of each group, for each direction.
    starts: Vec<[Arc<PortStarts>; 2]>,
    /// The port that `known` is about.
    port: (Transport, u16),
    /// The answers between groups: a row for each source.
    known: Vec<Option<Answer>>,
}

/// A source or destination.
#[derive(Debug)]
struct Peer {
    addresses: Vec<IpAddr>,
    end: PodOrIp,
    /// Number of the group: its peers have the same verdicts. An address and a pod on the host's network are each alone in one.
    group: usize,
}

impl Reachability {
    /// Peers are pods or addresses.
    pub fn new(cluster: OfflineCluster, ends: &[PodOrIp]) -> Self {
        let names: Vec<ObjectName> = ends.iter().filter_map(PodOrIp::pod_name).cloned().collect();
        let mut keys = cluster.group_keys(&names).into_iter();
        let mut starts_of_pods = cluster.port_starts(&names).into_iter();
        let mut numbers: BTreeMap<Vec<GroupKey>, usize> = BTreeMap::new();
        let mut starts = Vec::new();
        let mut peers = Vec::with_capacity(ends.len());
        for end in ends {
            let pod = end.pod_name().and_then(|_| keys.next().zip(starts_of_pods.next()));
            let n_known = starts.len();
            let group = match pod {
                None => {
                    starts.push([Arc::default(), Arc::default()]);
                    n_known
                }
                Some((keys, of_pod)) => *numbers.entry(keys).or_insert_with(|| {
                    starts.push(of_pod);
                    n_known
                }),
            };
            peers.push(Peer {
                addresses: addresses(cluster.state(), end),
                end: end.clone(),
                group,
            });
        }
        Self { cluster, peers, starts, port: (Transport::Tcp, 0), known: Vec::new() }
    }

    /// The ports of each protocol at which the answer for some connection can change.
    pub fn port_starts(&self) -> BTreeMap<Transport, BTreeSet<u16>> {
        let mut all: BTreeMap<Transport, BTreeSet<u16>> = BTreeMap::new();
        for (transport, starts) in self.starts.iter().flatten().flat_map(|starts| starts.iter()) {
            all.entry(*transport).or_default().extend(starts);
        }
        all
    }

    /// Whether the answers for connections from a peer can change at a port because of the peer's own policies.
    pub fn changes_from(&self, peer: usize, port: u16, transport: Transport) -> bool {
        self.has_start(peer, Direction::Egress, port, transport)
    }

    /// Whether the answers for connections to a peer can change at a port because of the peer's own policies.
    pub fn changes_to(&self, peer: usize, port: u16, transport: Transport) -> bool {
        self.has_start(peer, Direction::Ingress, port, transport)
    }

    fn has_start(
        &self,
        peer: usize,
        direction: Direction,
        port: u16,
        transport: Transport,
    ) -> bool {
        let group = self.peers.get(peer).map(|peer| peer.group);
        let starts = group.and_then(|group| self.starts.get(group));
        starts.is_some_and(|starts| has_start(starts, direction, transport, (port, port)))
    }

    /// The cluster.
    pub fn cluster(&self) -> &OfflineCluster {
        &self.cluster
    }

    /// The objects.
    pub fn state(&self) -> &ClusterState {
        self.cluster.state()
    }

    /// The group of a peer, by its position: peers of one group have the same answers.
    pub fn group(&self, peer: usize) -> Option<usize> {
        Some(self.peers.get(peer)?.group)
    }

    /// The answer for the connection between two peers, by their positions.
    ///
    /// # Errors
    /// The engine cannot be used, or a pod has no egress mark.
    pub fn answer(
        &mut self,
        from: usize,
        to: usize,
        port: u16,
        transport: Transport,
    ) -> Result<Answer, ReachabilityError> {
        self.move_to(transport, port);
        let (Some(source), Some(destination)) = (self.peers.get(from), self.peers.get(to)) else {
            return Ok(Answer::Denied);
        };
        let index = source.group * self.starts.len() + destination.group;
        if let Some(known) = self.known.get(index).copied().flatten() {
            return Ok(known);
        }
        let mut verdicts = [None, None];
        for (verdict, is_family) in verdicts.iter_mut().zip([IpAddr::is_ipv4, IpAddr::is_ipv6]) {
            let address = |peer: &Peer| peer.addresses.iter().copied().find(is_family);
            let (Some(source_address), Some(address)) = (address(source), address(destination))
            else {
                continue;
            };
            let probe = Probe {
                from: with_address(&source.end, source_address),
                to: with_address(&destination.end, address),
                port: PortChoice::Number(port),
                transport,
            };
            let (found, problem) = self.cluster.probe(&probe)?;
            if let Some(problem @ Problem::NoEgressMark) = problem {
                return Err(ReachabilityError::Impossible(problem));
            }
            *verdict = Some(found);
        }
        let answer = match verdicts {
            [Some(Verdict::Possible), _] | [_, Some(Verdict::Possible)] => Answer::Possible,
            [Some(Verdict::Allowed), Some(Verdict::Denied)] => Answer::OnlyIpv4,
            [Some(Verdict::Denied), Some(Verdict::Allowed)] => Answer::OnlyIpv6,
            [Some(Verdict::Allowed), _] | [None, Some(Verdict::Allowed)] => Answer::Allowed,
            [Some(Verdict::Denied), _] | [None, Some(Verdict::Denied) | None] => Answer::Denied,
        };
        if let Some(known) = self.known.get_mut(index) {
            *known = Some(answer);
        }
        Ok(answer)
    }

    /// Forgets the answers that can differ between the last port and this one.
    fn move_to(&mut self, transport: Transport, port: u16) {
        if self.port == (transport, port) && !self.known.is_empty() {
            return;
        }
        let (last_transport, last) = std::mem::replace(&mut self.port, (transport, port));
        let n_groups = self.starts.len();
        if last_transport != transport || self.known.is_empty() {
            self.known.clear();
            self.known.resize(n_groups * n_groups, None);
            return;
        }
        let passed = (last.min(port).saturating_add(1), last.max(port));
        for (group, starts) in self.starts.iter().enumerate() {
            if has_start(starts, Direction::Egress, transport, passed) {
                let row = self.known.iter_mut().skip(group * n_groups).take(n_groups);
                row.for_each(|known| *known = None);
            }
            if has_start(starts, Direction::Ingress, transport, passed) {
                let column = self.known.iter_mut().skip(group).step_by(n_groups);
                column.for_each(|known| *known = None);
            }
        }
    }
}

/// Whether one of the ports from `first` to `last` is a port start.
fn has_start(
    starts: &[Arc<PortStarts>; 2],
    direction: Direction,
    transport: Transport,
    (first, last): (u16, u16),
) -> bool {
    let of_direction = Direction::ALL.iter().zip(starts).find(|(of, _)| **of == direction);
    let sorted = of_direction.and_then(|(_, starts)| starts.get(&transport));
    sorted.is_some_and(|sorted| {
        let next = sorted.get(sorted.partition_point(|start| *start < first));
        next.is_some_and(|start| *start <= last)
    })
}

/// A matrix cannot be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum ReachabilityError {
    /// The engine failed.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// A verdict would be lost.
    #[error(transparent)]
    Impossible(Problem),
}

pub(super) fn addresses(state: &ClusterState, end: &PodOrIp) -> Vec<IpAddr> {
    match end {
        PodOrIp::Address(address) => vec![address.to_canonical()],
        PodOrIp::Pod { name, address: _ } => state
            .pod(name)
            .map(|pod: &Pod| super::routes::own_addresses(state, pod))
            .unwrap_or_default(),
        PodOrIp::Block(_) | PodOrIp::External | PodOrIp::Node(_) | PodOrIp::Service(_) => {
            Vec::new()
        }
    }
}

pub(super) fn with_address(end: &PodOrIp, address: IpAddr) -> PodOrIp {
    match end.pod_name() {
        Some(name) => PodOrIp::Pod { name: name.clone(), address: Some(address) },
        None => end.clone(),
    }
}
