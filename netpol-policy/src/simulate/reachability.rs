//! The verdicts on the connections between many pods.
//!
//! In: a cluster, and the sources and destinations. Out: the answer for each pair and port. Pairs and ports that the policies
//! do not distinguish are evaluated once. Must not: draw.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::engine::DatapathError;
use super::groups::{GroupKey, port_boundaries};
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
    boundaries: BTreeMap<Transport, Vec<u16>>,
    /// The range of ports that `known` is about.
    ports: (Transport, usize),
    /// The answers between groups: a row for each source.
    known: Vec<Option<Answer>>,
    n_groups: usize,
}

/// A source or destination.
#[derive(Debug)]
struct Peer {
    addresses: Vec<IpAddr>,
    end: PodOrIp,
    /// Number of the group; `None` if only this peer has its verdicts.
    group: Option<usize>,
}

impl Reachability {
    /// Peers are pods or addresses.
    pub fn new(cluster: OfflineCluster, peers: &[PodOrIp]) -> Self {
        let names: Vec<ObjectName> = peers.iter().filter_map(pod_name).cloned().collect();
        let mut numbers: BTreeMap<Vec<GroupKey>, usize> = BTreeMap::new();
        let mut groups = cluster.group_keys(&names).into_iter().map(|keys| {
            let is_single = keys.iter().any(|key| matches!(key, GroupKey::Single(_)));
            let n_known = numbers.len();
            let number = *numbers.entry(keys).or_insert(n_known);
            (!is_single).then_some(number)
        });
        let state = cluster.state();
        let peers: Vec<Peer> = peers
            .iter()
            .map(|end| {
                let group = pod_name(end).and_then(|_| groups.next().flatten());
                Peer { addresses: addresses(state, end), end: end.clone(), group }
            })
            .collect();
        drop(groups);
        let boundaries = port_boundaries(state);
        let ports = (Transport::Tcp, usize::MAX);
        let n_groups = numbers.len();
        Self { cluster, peers, boundaries, ports, known: Vec::new(), n_groups }
    }

    /// The objects.
    pub fn state(&self) -> &ClusterState {
        self.cluster.state()
    }

    /// The group of a peer, by its position: peers of one group have the same answers. `None` for a peer of its own.
    pub fn group(&self, peer: usize) -> Option<usize> {
        self.peers.get(peer)?.group
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
        let (Some(source), Some(destination)) = (self.peers.get(from), self.peers.get(to)) else {
            return Ok(Answer::Denied);
        };
        let boundaries = self.boundaries.get(&transport);
        let ports = boundaries.map_or(0, |of| of.partition_point(|first| *first <= port));
        if self.ports != (transport, ports) {
            self.ports = (transport, ports);
            self.known.clear();
            self.known.resize(self.n_groups * self.n_groups, None);
        }
        let pair = source.group.zip(destination.group);
        let index = pair.map(|(source, destination)| source * self.n_groups + destination);
        if let Some(known) = index.and_then(|index| self.known.get(index).copied().flatten()) {
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
        if let Some(known) = index.and_then(|index| self.known.get_mut(index)) {
            *known = Some(answer);
        }
        Ok(answer)
    }
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

fn pod_name(end: &PodOrIp) -> Option<&ObjectName> {
    match end {
        PodOrIp::Pod { name, address: _ } => Some(name),
        PodOrIp::Address(_)
        | PodOrIp::Block(_)
        | PodOrIp::External
        | PodOrIp::Node(_)
        | PodOrIp::Service(_) => None,
    }
}

fn addresses(state: &ClusterState, end: &PodOrIp) -> Vec<IpAddr> {
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

fn with_address(end: &PodOrIp, address: IpAddr) -> PodOrIp {
    match pod_name(end) {
        Some(name) => PodOrIp::Pod { name: name.clone(), address: Some(address) },
        None => end.clone(),
    }
}
