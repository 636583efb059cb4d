//! Who has talked to whom, on which port, and how often.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use netpol_common::ids::Direction;

use super::cover::{LearnedPeer, Seen, rules};
use super::workloads::{WorkloadKey, Workloads};
use super::{Learned, LearnedPolicy, Observed, Options};
use crate::model::{ObjectName, Pod, Service, Transport};
use crate::resolve::{is_any_node, is_own_node};
use crate::simulate::routes::{Route, backends_of, direct, own_addresses};
use crate::simulate::translation::behind;
use crate::store::ClusterState;

/// The peer of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    Workload(WorkloadKey),
    /// An address of a node, which pods with the host's network share.
    Node(IpAddr),
    /// Addresses outside of the cluster.
    Block(IpNetwork),
}

/// How often something was seen, by each of its ends. The same connections are often recorded at both.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    n_at_source: u64,
    n_at_destination: u64,
}

impl Counts {
    fn total(self) -> u64 {
        self.n_at_source.max(self.n_at_destination)
    }
}

/// What a workload has done in one direction.
type Seens = BTreeMap<Peer, BTreeMap<(Transport, u16), Counts>>;

/// The routes of an observed connection.
pub(super) enum Found {
    Routes(Vec<Route>),
    /// The reason why there are none.
    Nothing(String),
    /// A connection of a pod with itself.
    Itself,
}

/// Finds the pods of connections, and sums up.
pub(super) struct Contacts<'a> {
    state: &'a ClusterState,
    workloads: &'a Workloads,
    options: &'a Options,
    seen: BTreeMap<(WorkloadKey, Direction), Seens>,
    n_own_node: BTreeMap<WorkloadKey, u64>,
    n_itself: BTreeMap<WorkloadKey, u64>,
    observed_in: BTreeSet<Arc<str>>,
    dns: BTreeSet<ObjectName>,
    notes: BTreeSet<String>,
}

/// The one address of a family that no policy names.
const fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The address of a pod in the family of another address.
fn address_of(state: &ClusterState, pod: &Pod, like: IpAddr) -> IpAddr {
    let mut own = own_addresses(state, pod).into_iter();
    own.find(|own| own.is_ipv4() == like.is_ipv4()).unwrap_or_else(|| unspecified(like))
}

fn is_api_server(service: &Service) -> bool {
    *service.name.namespace == *"default" && *service.name.name == *"kubernetes"
}

/// The addresses that packets of an observed connection use, with pods that are gone replaced by others of their workload.
pub(super) fn routes(
    state: &ClusterState,
    workloads: &Workloads,
    options: &Options,
    observed: &Observed,
) -> Found {
    let Observed { pod: name, direction, transport, port, remote, peer } = observed;
    let Some(pod) = workloads.pod(state, name) else {
        return Found::Nothing(format!("pod {name} is not among the objects"));
    };
    // The pod that had the address then may be gone, and the address another's.
    let known = peer.as_ref().map(|peer| (peer, workloads.pod(state, peer)));
    let remote = match (known, state.owner(*remote)) {
        (Some((peer, None)), None) => {
            return Found::Nothing(format!(
                "pod {peer}, a peer of {name}, is not among the objects"
            ));
        }
        (Some((_, Some(peer))), owner) if owner.is_none_or(|owner| owner.name != peer.name) => {
            address_of(state, peer, *remote)
        }
        _ => *remote,
    };
    let own = address_of(state, pod, remote);
    if own == remote {
        return Found::Itself;
    }
    if *direction == Direction::Ingress {
        return Found::Routes(vec![direct(remote, (own, *port), *transport)]);
    }
    let original = (remote, *port);
    let Some(behind) = behind(state, own, original, *transport) else {
        return Found::Routes(vec![direct(own, original, *transport)]);
    };
    if !behind.is_empty() {
        return Found::Routes(behind);
    }
    let mut services = state.services().filter(|service| service.addresses.contains(&remote));
    let service = services.next();
    if service.is_some_and(is_api_server) {
        let given =
            options.api_servers.iter().filter(|server| server.is_ipv4() == remote.is_ipv4());
        let given: Vec<Route> =
            given.map(|server| direct(own, (server.ip(), server.port()), *transport)).collect();
        if !given.is_empty() {
            return Found::Routes(given);
        }
        return Found::Nothing(
            "the addresses of the API server are not among the objects: state them with --api-server".to_owned(),
        );
    }
    let name = service.map_or_else(|| remote.to_string(), |service| service.name.to_string());
    Found::Nothing(format!("Service {name} has no backend for {} {port}", transport.as_str()))
}

impl<'a> Contacts<'a> {
    pub(super) fn new(
        state: &'a ClusterState,
        workloads: &'a Workloads,
        options: &'a Options,
    ) -> Self {
        Self {
            state,
            workloads,
            options,
            seen: BTreeMap::new(),
            n_own_node: BTreeMap::new(),
            n_itself: BTreeMap::new(),
            observed_in: BTreeSet::new(),
            dns: dns_pods(state),
            notes: BTreeSet::new(),
        }
    }

    /// Adds a connection.
    pub(super) fn add(&mut self, observed: &Observed) {
        let Some(pod) = self.workloads.pod(self.state, &observed.pod) else {
            self.notes.insert(format!("pod {} is not among the objects", observed.pod));
            return;
        };
        let Some(key) = self.workloads.key(pod) else { return };
        self.observed_in.insert(Arc::clone(&key.namespace));
        let routes = match routes(self.state, self.workloads, self.options, observed) {
            Found::Routes(routes) => routes,
            Found::Itself => {
                *self.n_itself.entry(key).or_default() += 1;
                return;
            }
            Found::Nothing(note) => {
                self.notes.insert(note);
                return;
            }
        };
        // The backends of a Service are mostly of one workload: it is one connection.
        let mut ends = BTreeSet::new();
        for route in routes {
            self.ends(&route, &mut ends);
        }
        for (workload, direction, peer, port) in ends {
            let by_peer = self.seen.entry((workload, direction)).or_default();
            let counts = by_peer.entry(peer).or_default().entry(port).or_default();
            if port.0 != observed.transport {
                // DNS in the protocol that was not seen.
                continue;
            }
            match observed.direction {
                Direction::Ingress => counts.n_at_destination += 1,
                Direction::Egress => counts.n_at_source += 1,
            }
        }
    }

    /// What a connection means for the policies at its ends.
    fn ends(
        &mut self,
        route: &Route,
        ends: &mut BTreeSet<(WorkloadKey, Direction, Peer, (Transport, u16))>,
    ) {
        let (sent_to, sent_port) = route.sent_to();
        let (transport, port) = (route.transport, route.port);
        let mut transports = vec![transport];
        if self.state.owner(route.destination).is_some_and(|pod| self.dns.contains(&pod.name)) {
            // A resolver repeats a query by TCP when the answer is too long for UDP.
            transports = vec![Transport::Tcp, Transport::Udp];
        }
        let source = self.state.owner(route.source);
        if let Some(pod) = source
            && let Some(key) = self.workloads.key(pod)
        {
            if is_own_node(self.state, pod, sent_to) {
                *self.n_own_node.entry(key).or_default() += 1;
            } else {
                let peer = self.peer(sent_to);
                ends.extend(transports.iter().map(|transport| {
                    (key.clone(), Direction::Egress, peer.clone(), (*transport, sent_port))
                }));
            }
        }
        if let Some(pod) = self.state.owner(route.destination)
            && let Some(key) = self.workloads.key(pod)
        {
            if is_own_node(self.state, pod, route.arriving_source) {
                *self.n_own_node.entry(key).or_default() += 1;
            } else {
                let peer = self.peer(route.arriving_source);
                ends.extend(transports.iter().map(|transport| {
                    (key.clone(), Direction::Ingress, peer.clone(), (*transport, port))
                }));
            }
        }
    }

    fn peer(&self, address: IpAddr) -> Peer {
        let owner = self.state.owner(address);
        if let Some(key) = owner.and_then(|pod| self.workloads.key(pod)) {
            return Peer::Workload(key);
        }
        if is_any_node(self.state, address) {
            return Peer::Node(address);
        }
        let stated = self.options.blocks.iter().filter(|block| block.contains(address));
        let narrowest = stated.max_by_key(|block| block.prefix());
        Peer::Block(narrowest.copied().unwrap_or_else(|| IpNetwork::from(address)))
    }

    /// The policies.
    pub(super) fn finish(mut self) -> Learned {
        let namespaces = if self.options.namespaces.is_empty() {
            std::mem::take(&mut self.observed_in)
        } else {
            self.options.namespaces.clone()
        };
        let mut policies = Vec::new();
        for namespace in &namespaces {
            for key in self.workloads.within(namespace) {
                let workload = self.workloads.name(key);
                policies.push(LearnedPolicy {
                    name: ObjectName::new(namespace, &format!("learned-{workload}")),
                    workload,
                    selector: self.workloads.selector(key),
                    ingress: self.rules(key, Direction::Ingress),
                    egress: self.rules(key, Direction::Egress),
                    n_own_node: self.n_own_node.get(key).copied().unwrap_or_default(),
                    n_itself: self.n_itself.get(key).copied().unwrap_or_default(),
                });
            }
        }
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        Learned { policies, notes: self.notes }
    }

    fn rules(&self, key: &WorkloadKey, direction: Direction) -> Vec<super::LearnedRule> {
        let Some(seen) = self.seen.get(&(key.clone(), direction)) else { return Vec::new() };
        let seens = seen.iter().map(|(peer, ports)| Seen {
            peer: self.learned_peer(peer),
            ports: ports.keys().copied().collect(),
            n_connections: ports.values().map(|counts| counts.total()).sum(),
        });
        rules(seens.collect())
    }

    fn learned_peer(&self, peer: &Peer) -> LearnedPeer {
        match peer {
            Peer::Workload(key) => {
                let name = format!("{}/{}", key.namespace, self.workloads.name(key));
                LearnedPeer::Workload { selector: self.workloads.selector(key), name }
            }
            Peer::Node(address) => {
                let mut nodes = self.state.nodes().filter(|node| node.addresses.contains(address));
                let node = nodes.next().map(|node| node.name.to_string());
                let reports =
                    |pod: &&Pod| pod.host_network && pod.reported_addresses.contains(address);
                let pods = self.state.pods().filter(reports).map(|pod| pod.name.to_string());
                LearnedPeer::Node {
                    block: IpNetwork::from(*address),
                    node: node.unwrap_or_default(),
                    pods: pods.collect(),
                }
            }
            Peer::Block(block) => LearnedPeer::Block(*block),
        }
    }
}

/// The pods of the cluster's DNS: those behind a Service of `kube-system` with port 53 in both protocols.
fn dns_pods(state: &ClusterState) -> BTreeSet<ObjectName> {
    let mut pods = BTreeSet::new();
    for service in state.services().filter(|service| *service.name.namespace == *"kube-system") {
        let of = |transport| {
            let mut ports = service.ports.iter();
            ports.find(|port| port.number == 53 && port.transport == transport)
        };
        let (Some(_), Some(port)) = (of(Transport::Tcp), of(Transport::Udp)) else { continue };
        for (addresses, _) in backends_of(state, service, port) {
            let owners = addresses.into_iter().filter_map(|address| state.owner(address));
            pods.extend(owners.map(|pod| pod.name.clone()));
        }
    }
    pods
}
