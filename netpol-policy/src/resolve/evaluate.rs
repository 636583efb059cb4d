//! The reference semantics: one connection, judged straight from the objects.
//!
//! Slow and plain on purpose. It shares neither peer sets nor port sets with the compiler, so that the two can be
//! held against each other, and it gives its reasons.

use std::net::IpAddr;

use netpol_common::ids::Direction;
use serde::{Deserialize, Serialize};

use super::{Isolation, RuleRef, isolating, peers::selects_namespace};
use crate::model::{
    NamespaceMatch, ObjectName, Peer, Peers, Pod, PortSpec, Ports, Rule, Transport,
};
use crate::store::ClusterState;

/// A connection to judge, with the addresses that the packets really carry (after Service translation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who opens it.
    pub source: IpAddr,
    /// Whom it reaches.
    pub destination: IpAddr,
    /// The protocol.
    pub transport: Transport,
    /// The destination port, host byte order.
    pub port: u16,
}

/// The other end, as one pod's policies see it.
#[derive(Clone, Copy, Debug)]
pub struct Remote<'a> {
    /// Its address.
    pub address: IpAddr,
    /// The pod that holds the address.
    pub pod: Option<&'a Pod>,
}

/// The verdict on a connection, with its reasons.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// What the source's policies say; `None` if the source is no pod.
    pub egress: Option<EndDecision>,
    /// What the destination's policies say; `None` if the destination is no pod.
    pub ingress: Option<EndDecision>,
}

impl Decision {
    /// Whether both ends let the connection pass.
    pub fn is_allowed(&self) -> bool {
        [&self.egress, &self.ingress].into_iter().flatten().all(|end| end.verdict.is_pass())
    }

    /// Takes back what rules allow for which there is no room: who compiles them finds that out.
    pub fn leave_out(
        &mut self,
        state: &ClusterState,
        is_left_out: impl Fn(&Pod, &RuleRef) -> bool,
    ) {
        for end in [&mut self.egress, &mut self.ingress].into_iter().flatten() {
            if let Some(pod) = state.pod(&end.pod) {
                let (isolation, _) = isolating(state, pod, end.direction);
                end.leave_out(|rule| is_left_out(pod, rule), isolation);
            }
        }
    }
}

/// What the policies of one end say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndDecision {
    /// The pod at this end.
    pub pod: ObjectName,
    /// The direction as it sees it.
    pub direction: Direction,
    /// What follows.
    pub verdict: EndVerdict,
    /// The policies that isolate the pod.
    pub isolating: Vec<ObjectName>,
    /// The rules that allow the connection.
    pub allowing: Vec<RuleRef>,
    /// Why the other rules of these policies do not.
    pub misses: Vec<Miss>,
}

/// What happens to the connection at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndVerdict {
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// A rule allows it.
    Allowed,
    /// Isolated, and no rule allows it.
    NotAllowed,
    /// As `NotAllowed`, but all policies that isolate the pod are only audited: it passes and is reported.
    Audited,
    /// The other end is the pod's own node: always allowed.
    OwnNode,
    /// The pod talks to itself: always allowed.
    Itself,
    /// Egress to a Service address: judged after translation, on the real backend.
    Deferred,
}

impl EndDecision {
    fn leave_out(&mut self, is_left_out: impl Fn(&RuleRef) -> bool, isolation: Isolation) {
        let left_out: Vec<RuleRef> =
            self.allowing.extract_if(.., |rule| is_left_out(rule)).collect();
        if left_out.is_empty() {
            return;
        }
        let misses = left_out.into_iter().map(|rule| Miss { rule, reason: MissReason::Capacity });
        self.misses.splice(..0, misses);
        if self.verdict == EndVerdict::Allowed && self.allowing.is_empty() {
            self.verdict = match isolation {
                Isolation::None => EndVerdict::NotIsolated,
                Isolation::Audited => EndVerdict::Audited,
                Isolation::Enforced => EndVerdict::NotAllowed,
            };
        }
    }
}

impl EndVerdict {
    /// Whether the connection passes this end.
    pub const fn is_pass(self) -> bool {
        !matches!(self, Self::NotAllowed)
    }
}

/// A rule that does not allow the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Miss {
    /// The rule.
    pub rule: RuleRef,
    /// What does not match.
    pub reason: MissReason,
}

/// Which half of a rule does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissReason {
    /// The peer matches, the port does not: the nearest kind of miss.
    Port,
    /// The port matches, the peer does not.
    Peer,
    /// Neither matches.
    Both,
    /// Both match, and the maps have no room for the rule. Only who compiles finds that out.
    Capacity,
}

/// Judges a connection.
///
/// Source: networking.k8s.io/v1 NetworkPolicy: it passes if egress of the source and ingress of the destination
/// both allow it; an end that is no pod has no policy.
pub fn evaluate(state: &ClusterState, connection: &Connection) -> Decision {
    let Connection { source, destination, transport, port } = *connection;
    let end = |pod_address, direction, remote| {
        let pod = state.owner(pod_address)?;
        Some(evaluate_end(state, pod, direction, remote, transport, port))
    };
    Decision {
        egress: end(source, Direction::Egress, destination),
        ingress: end(destination, Direction::Ingress, source),
    }
}

/// Judges one end of a connection. `port` is the destination's, whichever end this is.
pub fn evaluate_end(
    state: &ClusterState,
    pod: &Pod,
    direction: Direction,
    remote: IpAddr,
    transport: Transport,
    port: u16,
) -> EndDecision {
    let remote = Remote { address: remote, pod: state.owner(remote) };
    let (isolation, policies) = isolating(state, pod, direction);
    let mut decision = EndDecision {
        pod: pod.name.clone(),
        direction,
        verdict: EndVerdict::NotIsolated,
        isolating: policies.iter().map(|policy| policy.name.clone()).collect(),
        allowing: Vec::new(),
        misses: Vec::new(),
    };
    for policy in policies {
        for rule in policy.rules(direction) {
            let reference = RuleRef { policy: policy.name.clone(), direction, index: rule.index };
            let destination = match direction {
                Direction::Ingress => Some(pod),
                Direction::Egress => remote.pod,
            };
            let peer_matches = peers_match(state, &policy.name.namespace, rule, remote);
            let port_matches = ports_match(rule, destination, transport, port);
            let reason = match (peer_matches, port_matches) {
                (true, true) => {
                    decision.allowing.push(reference);
                    continue;
                }
                (true, false) => MissReason::Port,
                (false, true) => MissReason::Peer,
                (false, false) => MissReason::Both,
            };
            decision.misses.push(Miss { rule: reference, reason });
        }
    }
    decision.misses.sort_by_key(|miss| miss.reason);
    decision.verdict = if remote.pod.is_some_and(|other| other.name == pod.name) {
        EndVerdict::Itself
    } else if is_own_node(state, pod, remote.address) {
        EndVerdict::OwnNode
    } else if isolation == Isolation::None {
        EndVerdict::NotIsolated
    } else if direction == Direction::Egress && is_service(state, remote.address) {
        EndVerdict::Deferred
    } else if !decision.allowing.is_empty() {
        EndVerdict::Allowed
    } else if isolation == Isolation::Audited {
        EndVerdict::Audited
    } else {
        EndVerdict::NotAllowed
    };
    decision
}

/// Whether an address is the node's that the pod runs on: the node says so, or a host-network pod of it. An address
/// that a pod holds is that pod's.
pub fn is_own_node(state: &ClusterState, pod: &Pod, address: IpAddr) -> bool {
    !pod.node.is_empty() && state.owner(address).is_none() && is_node(state, &pod.node, address)
}

fn is_node(state: &ClusterState, node: &str, address: IpAddr) -> bool {
    state.node(node).is_some_and(|node| node.addresses.contains(&address))
        || state.pods().any(|pod| {
            pod.host_network && *pod.node == *node && pod.reported_addresses.contains(&address)
        })
}

/// Whether an address is a Service's and nobody's own: no packet arrives at it.
pub fn is_service(state: &ClusterState, address: IpAddr) -> bool {
    state.services().any(|service| service.addresses.contains(&address))
        && state.owner(address).is_none()
        && !state.nodes().any(|node| node.addresses.contains(&address))
}

/// Whether a pod's egress lets a connection to a Service pass of which nobody knows where it arrives: the address is in
/// no block and no pod's.
pub fn allows_unknown_backend(
    state: &ClusterState,
    pod: &Pod,
    transport: Transport,
    port: u16,
) -> bool {
    let (isolation, policies) = isolating(state, pod, Direction::Egress);
    isolation != Isolation::Enforced
        || policies.iter().flat_map(|policy| &*policy.egress).any(|rule| {
            matches!(rule.peers, Peers::All) && ports_match(rule, None, transport, port)
        })
}

fn peers_match(state: &ClusterState, namespace: &str, rule: &Rule, remote: Remote<'_>) -> bool {
    match &rule.peers {
        Peers::All => true,
        Peers::AnyOf(peers) => peers.iter().any(|peer| match peer {
            Peer::IpBlock(block) => block.contains(remote.address),
            Peer::Pods { namespaces, pods } => remote.pod.is_some_and(|pod| {
                let in_namespace = match namespaces {
                    NamespaceMatch::Own => *pod.name.namespace == *namespace,
                    NamespaceMatch::Selected(selector) => {
                        selects_namespace(selector, state.namespace_labels(&pod.name.namespace))
                    }
                };
                in_namespace && pods.matches(&pod.labels)
            }),
        }),
    }
}

fn ports_match(rule: &Rule, destination: Option<&Pod>, transport: Transport, port: u16) -> bool {
    match &rule.ports {
        Ports::All => true,
        Ports::AnyOf(items) => items.iter().any(|item| {
            item.transport == transport
                && match &item.ports {
                    PortSpec::Any => true,
                    PortSpec::Range(range) => range.contains(port),
                    PortSpec::Named(name) => destination.is_some_and(|pod| {
                        pod.named_ports(name, transport).any(|number| number == port)
                    }),
                }
        }),
    }
}
