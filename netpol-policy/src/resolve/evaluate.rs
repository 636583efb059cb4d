//! The reference semantics: one connection, judged from the objects, with reasons.
//!
//! `explain` and the reference engine of `simulate` answer from here, and tests compare the compiled maps with it. It is
//! slow and plain on purpose.
//!
//! *Shared* with the path from [`super::Resolver`] through `compile` to the verdict: the objects of `model` as converted
//! from the API, with the primitives that answer for one item (`Selector::matches`, `IpBlock::contains`,
//! `PortRange::contains`, `Pod::named_ports`); the store with its address owners; [`isolating`], which chooses the policies of
//! a pod and its default verdict; and the test whether a namespace is selected. A fault in one of these is invisible to a
//! comparison of the two. *Not shared*: peer sets, label classes, port sets, identities, prefixes, allow maps, the
//! resolution of precedence, and `decide`.
//!
//! The oracle of the test crate (`netpol_tests::oracle`) is the independent judge: it reads the objects' JSON and uses no
//! code of this crate.

use std::net::IpAddr;

use netpol_common::ids::Direction;
use serde::{Deserialize, Serialize};

use super::peers::selects_namespace;
use super::{
    Action, DefaultVerdict, PolicyRef, RuleRef, RuleVerdict, Tier, first_decisive, isolating,
    rule_ref,
};
use crate::model::{
    NamespaceMatch, ObjectName, Peer, Peers, Pod, PortSpec, Ports, Rule, Transport,
};
use crate::store::ClusterState;

/// A connection to judge, with the addresses of its packets after Service translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Address of the client.
    pub source: IpAddr,
    /// Address of the server.
    pub destination: IpAddr,
    /// Transport protocol.
    pub transport: Transport,
    /// The destination port, host byte order.
    pub port: u16,
}

/// The remote peer of a pod.
#[derive(Clone, Copy, Debug)]
pub struct Remote<'a> {
    /// Address of the peer.
    pub address: IpAddr,
    /// The pod that owns the address, if one does.
    pub pod: Option<&'a Pod>,
}

/// The verdict on a connection, with its reasons.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Verdict of the source's egress policies; `None` if the source is no pod.
    pub egress: Option<EndDecision>,
    /// Verdict of the destination's ingress policies; `None` if the destination is no pod.
    pub ingress: Option<EndDecision>,
}

impl Decision {
    /// Whether both ends let the connection pass.
    pub fn is_allowed(&self) -> bool {
        [&self.egress, &self.ingress].into_iter().flatten().all(|end| end.verdict.is_pass())
    }

    /// Turns the rules that exceed the capacity of the maps into misses. `compile` finds these rules. Only NetworkPolicies are
    /// evaluated, so all rules accept, and without them the default verdict stands.
    pub fn leave_out(
        &mut self,
        state: &ClusterState,
        is_left_out: impl Fn(&Pod, &RuleRef) -> bool,
    ) {
        for end in [&mut self.egress, &mut self.ingress].into_iter().flatten() {
            if let Some(pod) = state.pod(&end.pod) {
                let (default, _) = isolating(state, pod, end.direction);
                end.leave_out(|rule| is_left_out(pod, rule), default);
            }
        }
    }
}

/// The verdict at one end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndDecision {
    /// The pod at this end.
    pub pod: ObjectName,
    /// The direction from the pod's point of view.
    pub direction: Direction,
    /// The verdict.
    pub verdict: EndVerdict,
    /// The tier whose rules, or whose implied deny, decided; `None` if no policy did.
    pub tier: Option<Tier>,
    /// The policies that isolate the pod.
    pub isolating: Vec<PolicyRef>,
    /// The rules that accept the connection.
    pub allowing: Vec<RuleRef>,
    /// The other rules of these policies, with the reason why they do not match.
    pub misses: Vec<Miss>,
}

/// Verdict on a connection at one end, with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndVerdict {
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// A rule allows it.
    Allowed,
    /// A rule denies it.
    Denied,
    /// Isolated, and no rule allows it.
    NotAllowed,
    /// As `NotAllowed`, but all policies that isolate the pod are only audited: it passes and is reported.
    Audited,
    /// The peer is the pod's own node: always allowed.
    OwnNode,
    /// The pod talks to itself: always allowed.
    Itself,
    /// Egress to a Service address: judged after translation, on the real backend.
    Deferred,
}

impl EndDecision {
    fn leave_out(&mut self, is_left_out: impl Fn(&RuleRef) -> bool, default: DefaultVerdict) {
        let left_out: Vec<RuleRef> =
            self.allowing.extract_if(.., |rule| is_left_out(rule)).collect();
        if left_out.is_empty() {
            return;
        }
        let misses = left_out.into_iter().map(|rule| Miss { rule, reason: MissReason::Capacity });
        self.misses.splice(..0, misses);
        if self.verdict == EndVerdict::Allowed && self.allowing.is_empty() {
            (self.verdict, self.tier) = policy_verdict(None, default);
        }
    }
}

impl EndVerdict {
    /// Whether the connection passes this end.
    pub const fn is_pass(self) -> bool {
        !matches!(self, Self::Denied | Self::NotAllowed)
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

/// The part of a rule that does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissReason {
    /// The peer matches, the port does not: the nearest kind of miss.
    Port,
    /// The port matches, the peer does not.
    Peer,
    /// Neither matches.
    Both,
    /// Both match, but the rule exceeds the capacity of the maps. Set by [`Decision::leave_out`].
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
    let (default, policies) = isolating(state, pod, direction);
    let mut decision = EndDecision {
        pod: pod.name.clone(),
        direction,
        verdict: EndVerdict::NotIsolated,
        tier: None,
        isolating: policies.iter().map(|policy| PolicyRef::network_policy(&policy.name)).collect(),
        allowing: Vec::new(),
        misses: Vec::new(),
    };
    for policy in policies {
        for rule in policy.rules(direction) {
            let reference = rule_ref(policy, direction, rule);
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
    // Every rule of a NetworkPolicy accepts, in the tier of its kind.
    let matching = decision.allowing.iter().map(|_| (Tier::NetworkPolicy, Action::Accept));
    let decisive = first_decisive(matching).map(|(_, tier, verdict)| (tier, verdict));
    let exempt = if remote.pod.is_some_and(|other| other.name == pod.name) {
        Some(EndVerdict::Itself)
    } else if is_own_node(state, pod, remote.address) {
        Some(EndVerdict::OwnNode)
    } else if default != DefaultVerdict::Allow
        && direction == Direction::Egress
        && is_service(state, remote.address)
    {
        Some(EndVerdict::Deferred)
    } else {
        None
    };
    (decision.verdict, decision.tier) = match exempt {
        Some(verdict) => (verdict, None),
        None => policy_verdict(decisive, default),
    };
    decision
}

/// The verdict of the policies and the tier that gave it, from the tier and verdict of the decisive rule, if there is one.
fn policy_verdict(
    decisive: Option<(Tier, RuleVerdict)>,
    default: DefaultVerdict,
) -> (EndVerdict, Option<Tier>) {
    match (decisive, default) {
        (Some((tier, RuleVerdict::Accept)), _) => (EndVerdict::Allowed, Some(tier)),
        (Some((tier, RuleVerdict::Deny)), _) => (EndVerdict::Denied, Some(tier)),
        (None, DefaultVerdict::Allow) => (EndVerdict::NotIsolated, None),
        // The deny that the tier of NetworkPolicies implies.
        (None, DefaultVerdict::Audit) => (EndVerdict::Audited, Some(Tier::NetworkPolicy)),
        (None, DefaultVerdict::Deny) => (EndVerdict::NotAllowed, Some(Tier::NetworkPolicy)),
    }
}

/// Whether an address belongs to the node that the pod runs on: the Node lists it, or a host-network pod of the node
/// reports it. An address that a pod owns never does.
pub fn is_own_node(state: &ClusterState, pod: &Pod, address: IpAddr) -> bool {
    !pod.node.is_empty() && state.owner(address).is_none() && is_node(state, &pod.node, address)
}

fn is_node(state: &ClusterState, node: &str, address: IpAddr) -> bool {
    state.node(node).is_some_and(|node| node.addresses.contains(&address))
        || state.pods().any(|pod| {
            pod.host_network && *pod.node == *node && pod.reported_addresses.contains(&address)
        })
}

/// Whether an address is a Service's, and neither a pod's nor a node's: packets to it are always translated.
pub fn is_service(state: &ClusterState, address: IpAddr) -> bool {
    state.services().any(|service| service.addresses.contains(&address))
        && state.owner(address).is_none()
        && !state.nodes().any(|node| node.addresses.contains(&address))
}

/// Whether the egress policies of a pod allow a connection to a Service without a known backend: its address is in no
/// block and no pod's, so only rules for every address match.
pub fn allows_unknown_backend(
    state: &ClusterState,
    pod: &Pod,
    transport: Transport,
    port: u16,
) -> bool {
    let (default, policies) = isolating(state, pod, Direction::Egress);
    default != DefaultVerdict::Deny
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_names_the_tier_that_decided() {
        let accept = Some((Tier::Admin, RuleVerdict::Accept));
        let deny = Some((Tier::Baseline, RuleVerdict::Deny));
        for default in [DefaultVerdict::Allow, DefaultVerdict::Audit, DefaultVerdict::Deny] {
            let found = policy_verdict(accept, default);
            assert_eq!(found, (EndVerdict::Allowed, Some(Tier::Admin)));
            let (verdict, tier) = policy_verdict(deny, default);
            assert_eq!((verdict, tier), (EndVerdict::Denied, Some(Tier::Baseline)));
            assert!(!verdict.is_pass());
        }
        let np = Some(Tier::NetworkPolicy);
        assert_eq!(policy_verdict(None, DefaultVerdict::Allow), (EndVerdict::NotIsolated, None));
        assert_eq!(policy_verdict(None, DefaultVerdict::Audit), (EndVerdict::Audited, np));
        assert_eq!(policy_verdict(None, DefaultVerdict::Deny), (EndVerdict::NotAllowed, np));
    }
}
