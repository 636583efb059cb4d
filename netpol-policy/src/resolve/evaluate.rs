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

use super::own_node::{TranslatedPort, translated_for};
use super::peers::selects_namespace;
use super::selection::{ListedRule, Selection};
use super::{
    DefaultVerdict, PolicyRef, RuleRef, RuleVerdict, Tier, first_decisive, isolating, selecting,
};
use crate::model::{
    Action, NamespaceMatch, ObjectName, Peer, Peers, Pod, PolicyMode, PortSpec, Ports, Rule,
    Transport,
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
    /// Whether the client used the address of a Service, which the node has translated.
    pub is_translated: bool,
    /// Whether the source address is one of a node that has put it in place of the client's. The connection is then not the
    /// node's own.
    pub is_masqueraded: bool,
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

    /// Takes the rules out that exceed the capacity of the maps. `compile` finds these rules. A rule that accepts becomes a
    /// miss; any other denies every address on its ports.
    pub fn leave_out(
        &mut self,
        state: &ClusterState,
        is_left_out: impl Fn(&Pod, &RuleRef) -> bool,
    ) {
        for end in [&mut self.egress, &mut self.ingress].into_iter().flatten() {
            if let Some(pod) = state.pod(&end.pod) {
                end.leave_out(|rule| is_left_out(pod, rule));
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
    /// The NetworkPolicies that isolate the pod.
    pub isolating: Vec<PolicyRef>,
    /// The ClusterNetworkPolicies with rules for the pod in this direction, in their order of precedence.
    pub cluster_policies: Vec<PolicyRef>,
    /// The rules that accept the connection: those of all NetworkPolicies, or the one of a ClusterNetworkPolicy that decides.
    pub allowing: Vec<RuleRef>,
    /// The rule that denies the connection, or would if its policy were enforced.
    pub denying: Option<RuleRef>,
    /// The rules that match the connection and pass it on to the next tier.
    pub passing: Vec<RuleRef>,
    /// The other rules of these policies, with the reason why they do not match.
    pub misses: Vec<Miss>,
    /// Why policies do not apply, if they do not.
    #[serde(skip)]
    exempt: Option<Exempt>,
    /// The verdict of the NetworkPolicies where no rule decides.
    #[serde(skip)]
    default: DefaultVerdict,
    /// Every rule in its order of precedence.
    #[serde(skip)]
    rules: Vec<JudgedRule>,
}

/// Why NetworkPolicies do not apply to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exempt {
    verdict: EndVerdict,
    /// A rule can deny the connection nevertheless.
    may_deny: bool,
}

/// A rule of a policy that selects the pod, compared with the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct JudgedRule {
    source: RuleRef,
    tier: Tier,
    action: Action,
    mode: PolicyMode,
    peer_matches: bool,
    port_matches: bool,
    is_left_out: bool,
}

impl JudgedRule {
    fn miss(&self) -> Option<MissReason> {
        match (self.peer_matches, self.port_matches) {
            (true, true) if self.is_left_out && self.action == Action::Accept => {
                Some(MissReason::Capacity)
            }
            (true, true) => None,
            (true, false) => Some(MissReason::Port),
            (false, true) => Some(MissReason::Peer),
            (false, false) => Some(MissReason::Both),
        }
    }
}

/// What decides a connection among some of the policies.
struct Decided<'a> {
    verdict: RuleVerdict,
    tier: Option<Tier>,
    /// `None` if the default of the NetworkPolicies decides, or nothing does.
    rule: Option<&'a JudgedRule>,
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
    /// The peer is the pod's own node: allowed, unless the pod connects to it and a rule denies that, or connections to the own node need
    /// a rule.
    OwnNode,
    /// The pod talks to itself: allowed, unless it does so through a Service and a rule denies it.
    Itself,
    /// Egress to a Service address: judged after translation, on the real backend.
    Deferred,
}

impl EndDecision {
    fn has_deny(&self) -> bool {
        self.rules.iter().any(|rule| rule.action == Action::Deny)
    }

    fn leave_out(&mut self, is_left_out: impl Fn(&RuleRef) -> bool) {
        for rule in self.rules.iter_mut().filter(|rule| is_left_out(&rule.source)) {
            rule.is_left_out = true;
            if rule.action != Action::Accept {
                rule.action = Action::Deny;
                rule.peer_matches = true;
            }
        }
        self.conclude();
    }

    /// Fills in what follows from the rules.
    fn conclude(&mut self) {
        let of_miss =
            |rule: &JudgedRule| Some(Miss { rule: rule.source.clone(), reason: rule.miss()? });
        self.misses = self.rules.iter().filter_map(of_miss).collect();
        self.misses.sort_by_key(|miss| (miss.reason != MissReason::Capacity, miss.reason));
        let enforced = self.decided(PolicyMode::Enforce);
        let with_audited = self.decided(PolicyMode::Audit);
        let (verdict, deciding) = match (enforced.verdict, with_audited.verdict) {
            (RuleVerdict::Deny, _) if enforced.rule.is_some() => (EndVerdict::Denied, enforced),
            (RuleVerdict::Deny, _) => (EndVerdict::NotAllowed, enforced),
            (RuleVerdict::Accept, RuleVerdict::Deny) => (EndVerdict::Audited, with_audited),
            (RuleVerdict::Accept, RuleVerdict::Accept) => {
                let deciding = if enforced.rule.is_some() { enforced } else { with_audited };
                let is_allowed = deciding.rule.is_some();
                let verdict =
                    if is_allowed { EndVerdict::Allowed } else { EndVerdict::NotIsolated };
                (verdict, deciding)
            }
        };
        let source = deciding.rule.map(|rule| rule.source.clone());
        let is_denied = deciding.verdict == RuleVerdict::Deny;
        let matching = self.rules.iter().filter(|rule| rule.miss().is_none());
        let of = |tier: Tier, action: Action| {
            let rules =
                matching.clone().filter(move |rule| (rule.tier, rule.action) == (tier, action));
            rules.map(|rule| rule.source.clone())
        };
        // All rules of NetworkPolicies that accept are named, unless a tier before theirs decides.
        let allowing: Vec<RuleRef> = match deciding.tier {
            Some(Tier::Admin | Tier::Baseline) if is_denied => Vec::new(),
            Some(Tier::Admin | Tier::Baseline) => source.iter().cloned().collect(),
            Some(Tier::NetworkPolicy) | None => of(Tier::NetworkPolicy, Action::Accept).collect(),
        };
        let last = deciding.tier.unwrap_or(Tier::Baseline);
        let passing = [Tier::Admin, Tier::Baseline].into_iter().filter(|tier| *tier <= last);
        let passing = passing.flat_map(|tier| of(tier, Action::Pass)).collect();
        let tier = deciding.tier;
        let denying = source.filter(|_| is_denied);
        (self.verdict, self.tier) = match self.exempt {
            // A deny that NetworkPolicies imply is no rule.
            Some(Exempt { may_deny: true, .. }) if denying.is_some() => (verdict, tier),
            Some(exempt) => (exempt.verdict, None),
            None => (verdict, tier),
        };
        let named: Vec<&RuleRef> =
            allowing.iter().chain(&denying).chain::<&Vec<RuleRef>>(&passing).collect();
        let not_asked = matching.filter(|rule| !named.contains(&&rule.source));
        let not_asked: Vec<Miss> = not_asked
            .map(|rule| Miss { rule: rule.source.clone(), reason: MissReason::Precedence })
            .collect();
        self.misses.splice(..0, not_asked);
        (self.allowing, self.denying, self.passing) = (allowing, denying, passing);
    }

    /// What decides the connection among the enforced policies, or among all as if they were enforced.
    fn decided(&self, mode: PolicyMode) -> Decided<'_> {
        let isolates = match mode {
            PolicyMode::Enforce => self.default == DefaultVerdict::Deny,
            PolicyMode::Audit => self.default != DefaultVerdict::Allow,
        };
        let applies = |rule: &&JudgedRule| {
            (mode == PolicyMode::Audit || rule.mode == PolicyMode::Enforce)
                && !(rule.tier == Tier::Baseline && isolates)
                && rule.miss().is_none()
        };
        let matching: Vec<&JudgedRule> = self.rules.iter().filter(applies).collect();
        match first_decisive(matching.iter().map(|rule| (rule.tier, rule.action))) {
            Some((position, tier, verdict)) => {
                Decided { verdict, tier: Some(tier), rule: matching.get(position).copied() }
            }
            None if isolates => {
                Decided { verdict: RuleVerdict::Deny, tier: Some(Tier::NetworkPolicy), rule: None }
            }
            None => Decided { verdict: RuleVerdict::Accept, tier: None, rule: None },
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
    /// Both match, but rules with precedence decide.
    Precedence,
    /// Both match, but the rule exceeds the capacity of the maps. Set by [`Decision::leave_out`].
    Capacity,
}

/// Judges a connection.
///
/// Source: networking.k8s.io/v1 NetworkPolicy: it passes if egress of the source and ingress of the destination
/// both allow it; an end that is no pod has no policy.
pub fn evaluate(state: &ClusterState, connection: &Connection) -> Decision {
    let Connection { source, destination, .. } = *connection;
    let end = |pod_address, direction, remote| {
        let pod = state.owner(pod_address)?;
        Some(evaluate_end(state, pod, direction, remote, connection))
    };
    Decision {
        egress: end(source, Direction::Egress, destination),
        ingress: end(destination, Direction::Ingress, source),
    }
}

/// Judges one end of a connection, whose other end is `remote`.
fn evaluate_end(
    state: &ClusterState,
    pod: &Pod,
    direction: Direction,
    remote: IpAddr,
    connection: &Connection,
) -> EndDecision {
    let Connection { transport, port, is_translated, is_masqueraded, .. } = *connection;
    let remote = Remote { address: remote, pod: state.owner(remote) };
    let (default, policies) = isolating(state, pod, direction);
    let cluster = selecting(state, pod, direction, default);
    let mut decision = EndDecision {
        pod: pod.name.clone(),
        direction,
        verdict: EndVerdict::NotIsolated,
        tier: None,
        isolating: policies.iter().map(|policy| PolicyRef::network_policy(&policy.name)).collect(),
        cluster_policies: cluster
            .iter()
            .map(|policy| PolicyRef::cluster_policy(&policy.name))
            .collect(),
        allowing: Vec::new(),
        denying: None,
        passing: Vec::new(),
        misses: Vec::new(),
        exempt: None,
        default,
        rules: Vec::new(),
    };
    let destination = match direction {
        Direction::Ingress => Some(pod),
        Direction::Egress => remote.pod,
    };
    for policy in Selection::in_order(&policies, &cluster) {
        decision.rules.extend(policy.rules(direction).map(|listed| JudgedRule {
            peer_matches: peers_match(state, &listed, remote),
            port_matches: ports_match(listed.rule, destination, transport, port),
            source: listed.source,
            tier: listed.tier,
            action: listed.action,
            mode: listed.mode,
            is_left_out: false,
        }));
    }
    decision.exempt = if remote.pod.is_some_and(|other| other.name == pod.name) {
        let may_deny = is_translated;
        Some(Exempt { verdict: EndVerdict::Itself, may_deny })
    } else if is_own_node(state, pod, remote.address)
        && !(is_masqueraded && direction == Direction::Ingress)
    {
        let is_egress = direction == Direction::Egress;
        // What the node translates goes on to a pod, and is judged there.
        let goes_on =
            !is_translated && is_translated_by(state, pod, (remote.address, port), transport);
        if is_egress && state.judges_own_node() && !goes_on {
            None
        } else {
            // A packet that a Service has led to the node itself passes no other hook: nothing judges it.
            let may_deny = is_egress && !is_translated && !goes_on;
            Some(Exempt { verdict: EndVerdict::OwnNode, may_deny })
        }
    } else if direction == Direction::Egress
        && (default != DefaultVerdict::Allow || decision.has_deny())
        && is_service(state, remote.address)
    {
        Some(Exempt { verdict: EndVerdict::Deferred, may_deny: false })
    } else {
        None
    };
    decision.conclude();
    decision
}

/// Whether the node of a pod translates connections to this address and port of its own to a pod.
pub fn is_translated_by(
    state: &ClusterState,
    pod: &Pod,
    (address, number): (IpAddr, u16),
    transport: Transport,
) -> bool {
    let is_it = |found: TranslatedPort| {
        (found.transport, found.number) == (transport, number)
            && found.at.is_none_or(|at| at == address)
    };
    let on_node =
        state.unsorted_pods().filter(|other| other.node == pod.node && !other.host_network);
    let mut host_ports = on_node.flat_map(|other| other.ports.iter());
    state.services().flat_map(|service| translated_for(state, service)).any(is_it)
        || host_ports.any(|found| (found.transport, found.host_port) == (transport, Some(number)))
}

/// Whether an address belongs to the node that the pod runs on: the Node lists it, a host-network pod of the node reports it,
/// or the pod's agent found it on a device. An address that a pod owns never does.
pub fn is_own_node(state: &ClusterState, pod: &Pod, address: IpAddr) -> bool {
    let is_on_device = || {
        // Those that a Node lists may be another node's in a simulation, which has the addresses of all nodes.
        state.own_addresses().contains(&address)
            && state.endpoints_of(&pod.name).next().is_some()
            && !is_listed_node(state, address)
    };
    state.owner(address).is_none()
        && (!pod.node.is_empty() && is_node(state, &pod.node, address) || is_on_device())
}

/// Whether a Node lists the address, or a host-network pod reports it.
fn is_listed_node(state: &ClusterState, address: IpAddr) -> bool {
    state.nodes().any(|node| node.addresses.contains(&address))
        || state.pods_on_host().any(|pod| pod.reported_addresses.contains(&address))
}

/// Whether an address is a node's, as far as is known, and no pod's.
pub fn is_any_node(state: &ClusterState, address: IpAddr) -> bool {
    state.owner(address).is_none()
        && (state.own_addresses().contains(&address) || is_listed_node(state, address))
}

fn is_node(state: &ClusterState, node: &str, address: IpAddr) -> bool {
    state.node(node).is_some_and(|node| node.addresses.contains(&address))
        || state
            .pods_on_host()
            .any(|pod| *pod.node == *node && pod.reported_addresses.contains(&address))
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
    let direction = Direction::Egress;
    let (default, policies) = isolating(state, pod, direction);
    let cluster = selecting(state, pod, direction, default);
    let rules = Selection::in_order(&policies, &cluster);
    let rules = rules.into_iter().flat_map(|policy| policy.rules(direction));
    let matching = rules.filter(|listed| {
        matches!(listed.rule.peers, Peers::All)
            && listed.mode == PolicyMode::Enforce
            && ports_match(listed.rule, None, transport, port)
    });
    match first_decisive(matching.map(|listed| (listed.tier, listed.action))) {
        Some((_, _, verdict)) => verdict == RuleVerdict::Accept,
        None => default != DefaultVerdict::Deny,
    }
}

fn peers_match(state: &ClusterState, listed: &ListedRule<'_>, remote: Remote<'_>) -> bool {
    match &listed.rule.peers {
        Peers::All => true,
        Peers::AnyOf(peers) => peers.iter().any(|peer| match peer {
            Peer::IpBlock(block) => block.contains(remote.address),
            Peer::Nodes(nodes) => state.nodes().any(|node| {
                nodes.matches(&node.labels) && node.addresses.contains(&remote.address)
            }),
            Peer::Pods { namespaces, pods } => remote.pod.is_some_and(|pod| {
                let in_namespace = match namespaces {
                    NamespaceMatch::Own => pod.name.namespace == listed.namespace,
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
