//! Explains why a connection is allowed or denied.
//!
//! In: a state and a probe. Out: an [`Explanation`] with the verdict of the reference semantics, and with a sentence for each
//! policy rule concerned. Must not: print.

mod explanation;
mod text;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use netpol_common::ids::Direction;

pub use explanation::{DirectionExplanation, Explanation, Packets, RuleExplanation};
pub use text::{Details, Paint, TextForm};

use super::placeholder::is_placeholder;
use super::probe::{PodOrIp, PortChoice, Probe, Problem};
use super::ranges;
use super::routes::{Route, Routes, routes};
use crate::model::{Action, Diagnostic, Kind, ObjectRef, Pod, PodInWords, Transport};
use crate::resolve::{
    Decision, EndDecision, EndVerdict, Miss, MissReason, PolicyRef, RuleInWords, RuleRef, Tier,
    rule_in_words,
};
use crate::store::ClusterState;

/// The states between which the connections of pods without an address lie, see [`super::with_placeholders`].
#[derive(Clone, Copy, Debug)]
pub struct States<'a> {
    /// The connections that are allowed for every address.
    pub certain: &'a ClusterState,
    /// The connections that are allowed for some address; `None` if they are the same.
    pub possible: Option<&'a ClusterState>,
    /// The policies as written.
    pub written: &'a ClusterState,
}

/// [`explain_between`] in a cluster in which the address of every pod is known.
pub fn explain<'a>(
    state: &ClusterState,
    probe: &Probe,
    diagnostics: impl IntoIterator<Item = &'a Diagnostic>,
    is_left_out: impl Fn(&Pod, &RuleRef) -> bool,
) -> Explanation {
    let states = States { certain: state, possible: None, written: state };
    explain_between(states, probe, diagnostics, is_left_out)
}

/// Explains the verdict on a probe. The explanation contains those of `diagnostics` that concern a policy that isolates the
/// source or the destination. `is_left_out` returns whether a rule is not in force at a pod because it would exceed the map
/// capacities.
pub fn explain_between<'a>(
    states: States<'_>,
    probe: &Probe,
    diagnostics: impl IntoIterator<Item = &'a Diagnostic>,
    is_left_out: impl Fn(&Pod, &RuleRef) -> bool,
) -> Explanation {
    let state = states.certain;
    let mut explanation = Explanation::empty(
        probe.from.to_string(),
        probe.to.to_string(),
        (&probe.port, probe.transport),
    );
    let routes = match routes(state, probe) {
        Ok(Routes::Found(routes)) => routes,
        Ok(Routes::NoBackend { source: _, original: (address, _) }) => {
            let mut services = state.services();
            let unlisted = services.find(|service| {
                service.addresses.contains(&address) && state.listed_backends(service).is_none()
            });
            let problem = unlisted.map_or(Problem::NoBackend(address), |service| {
                Problem::UnknownBackends(service.name.clone())
            });
            explanation.problem = Some(problem.to_string());
            return explanation;
        }
        Err(problem) => {
            explanation.problem = Some(problem.to_string());
            return explanation;
        }
    };
    let decide = |state: &ClusterState, route: &Route| {
        let mut decision = route.decide(state);
        decision.leave_out(state, &is_left_out);
        decision
    };
    let evaluated: Vec<(Route, Decision)> =
        routes.iter().map(|route| (*route, decide(state, route))).collect();
    explanation.service = service(state, probe, &evaluated);
    explanation.ranges = in_ranges(state, probe, &evaluated);
    // Of several connections, the first one that is denied is explained.
    let denied = evaluated.iter().position(|(_, decision)| !decision.is_allowed());
    let Some((route, decision)) = evaluated.into_iter().nth(denied.unwrap_or(0)) else {
        return explanation;
    };
    explanation.is_allowed = decision.is_allowed();
    let mut other = None;
    if let (Some(possible), false) = (states.possible, explanation.is_allowed) {
        let verdicts = routes.iter().map(|route| decide(possible, route).is_allowed());
        explanation.is_possible = verdicts.fold(true, |all, allowed| all & allowed);
        other = Some(decide(possible, &route));
    }
    let (other_egress, other_ingress) =
        other.map_or((None, None), |other| (other.egress, other.ingress));
    explanation.connection = Some(Packets {
        source: address_in_words(state, route.arriving_source),
        destination: address_in_words(state, route.destination),
        port: route.port,
    });
    explanation.published = [route.source, route.destination]
        .into_iter()
        .filter_map(|address| published_in_words(state, address))
        .collect();
    explanation.egress =
        decision.egress.map(|end| explain_end(&states, &route, end, other_egress.as_ref()));
    explanation.ingress =
        decision.ingress.map(|end| explain_end(&states, &route, end, other_ingress.as_ref()));
    let ends = [&explanation.egress, &explanation.ingress];
    let is_involved = |diagnostic: &&Diagnostic| {
        let ObjectRef { kind, name } = &diagnostic.object;
        let is_policy =
            |policy: &PolicyRef| Kind::from(policy.kind) == *kind && policy.name == *name;
        let policies = |end: &&DirectionExplanation| {
            end.isolating.iter().chain(&end.cluster_policies).any(is_policy)
        };
        ends.into_iter().flatten().any(|end| policies(&end))
    };
    let involved = diagnostics.into_iter().filter(is_involved).map(ToString::to_string);
    explanation.diagnostics = involved.collect();
    explanation
}

impl Explanation {
    /// The explanation of a connection that cannot exist.
    pub fn impossible(
        from: String,
        to: String,
        probe: (&PortChoice, Transport),
        problem: String,
    ) -> Self {
        Self { problem: Some(problem), ..Self::empty(from, to, probe) }
    }

    fn empty(from: String, to: String, (port, protocol): (&PortChoice, Transport)) -> Self {
        Self {
            from,
            to,
            port: port.to_string(),
            protocol,
            is_allowed: false,
            is_possible: false,
            problem: None,
            service: None,
            ranges: None,
            connection: None,
            published: Vec::new(),
            egress: None,
            ingress: None,
            diagnostics: Vec::new(),
        }
    }
}

/// A sentence on a rule for connections to this pod, if it is one; empty if the state does not have the rule.
pub(super) fn rule_sentence(
    written: &ClusterState,
    rule: &RuleRef,
    destination: Option<&Pod>,
) -> String {
    let Some(RuleInWords { rule: found, action, .. }) = rule_in_words(written, rule) else {
        return String::new();
    };
    let verb = match action {
        Action::Accept => "allows",
        Action::Deny => "denies",
        Action::Pass => "passes on",
    };
    let ports = words::ports(&found.ports, destination);
    format!("{rule} {verb} {ports} {}", words::peers(&found.peers, rule.direction))
}

/// An address, or the pod if its address is not known.
pub(super) fn address_in_words(state: &ClusterState, address: IpAddr) -> String {
    if !is_placeholder(address) {
        return address.to_string();
    }
    let on_hosts = state.pods_on_host().filter(|pod| pod.reported_addresses.contains(&address));
    let pod = state.owner(address).or_else(|| on_hosts.min_by_key(|pod| &pod.name));
    pod.map_or_else(|| address.to_string(), |pod| PodInWords(&pod.name).to_string())
}

/// A sentence on an address that the API does not report yet.
fn published_in_words(state: &ClusterState, address: IpAddr) -> Option<String> {
    let (_, pod) = state.published_addresses().find(|(published, _)| *published == address)?;
    Some(format!(
        "{address} of pod {} is published by its node {}, not yet reported by the API",
        pod.name, pod.node
    ))
}

/// A sentence on the addresses that are allowed and those that are denied, if an end of the probe is a block.
fn in_ranges(
    state: &ClusterState,
    probe: &Probe,
    evaluated: &[(Route, Decision)],
) -> Option<String> {
    let ranges_of = |end: &PodOrIp| match end {
        PodOrIp::Block(block) => Some(ranges::within(state, *block)),
        PodOrIp::External => Some(ranges::external(state)),
        PodOrIp::Pod { .. } | PodOrIp::Address(_) | PodOrIp::Node(_) | PodOrIp::Service(_) => None,
    };
    let (ranges, is_source) = match (ranges_of(&probe.from), ranges_of(&probe.to)) {
        (Some(ranges), _) => (ranges, true),
        (None, Some(ranges)) => (ranges, false),
        (None, None) => return None,
    };
    let [mut allowed, mut denied] = [Vec::new(), Vec::new()];
    let mut verdicts: BTreeMap<IpAddr, bool> = BTreeMap::new();
    for (route, decision) in evaluated {
        let first = if is_source { route.source } else { route.original.0 };
        *verdicts.entry(first).or_insert(true) &= decision.is_allowed();
    }
    for range in ranges {
        if let Some(is_allowed) = verdicts.get(&range.0) {
            ranges::push(if *is_allowed { &mut allowed } else { &mut denied }, range);
        }
    }
    let preposition = if is_source { "from" } else { "to" };
    let sentence = |verdict: &str, ranges: Vec<ranges::Range>| {
        let ranges = words::list(ranges.into_iter().map(ranges::in_words), ", ");
        (!ranges.is_empty()).then(|| format!("{verdict} {preposition} {ranges}"))
    };
    let sentences = [sentence("allowed", allowed), sentence("denied", denied)];
    Some(sentences.into_iter().flatten().collect::<Vec<_>>().join("; "))
}

/// A sentence on the backends of the Service, if the destination is a Service.
fn service(state: &ClusterState, probe: &Probe, evaluated: &[(Route, Decision)]) -> Option<String> {
    let (route, _) = evaluated.first()?;
    let (address, _) = route.original;
    let what = if let PodOrIp::Service(name) = &probe.to {
        format!("Service {name} has")
    } else {
        let service = state.services().find(|service| {
            route.original != (route.destination, route.port)
                && service.addresses.contains(&address)
        })?;
        format!("{address} is Service {} with", service.name)
    };
    let backends = evaluated.iter().map(|(route, decision)| {
        let verdict = if decision.is_allowed() { "allowed" } else { "denied" };
        let backend = if is_placeholder(route.destination) {
            format!("{}, port {}", address_in_words(state, route.destination), route.port)
        } else {
            SocketAddr::new(route.destination, route.port).to_string()
        };
        format!("{backend} ({verdict})")
    });
    let backends: BTreeSet<String> = backends.collect();
    Some(format!("{what} backends {}", words::list(backends, ", ")))
}

fn explain_end(
    states: &States<'_>,
    route: &Route,
    decision: EndDecision,
    possible: Option<&EndDecision>,
) -> DirectionExplanation {
    let summary = summary(&decision);
    let EndDecision {
        pod,
        direction,
        verdict,
        tier,
        isolating,
        cluster_policies,
        allowing,
        denying,
        passing,
        misses,
        ..
    } = decision;
    let view = View::new(states, route, direction);
    let explain_rule = |rule: RuleRef, miss| {
        let sentence = view.sentence(&rule, miss);
        RuleExplanation { rule, miss, sentence }
    };
    let is_possible = |miss: &Miss| possible.is_some_and(|end| end.allowing.contains(&miss.rule));
    let (possible, misses): (Vec<Miss>, Vec<Miss>) = misses.into_iter().partition(is_possible);
    DirectionExplanation {
        is_allowed: verdict.is_pass(),
        summary: if possible.is_empty() || verdict.is_pass() {
            summary
        } else {
            format!(
                "depends: {pod} is isolated for {direction}, and a rule allows the connection for some addresses"
            )
        },
        denying: denying.map(|rule| explain_rule(rule, None)),
        passing: passing.into_iter().map(|rule| explain_rule(rule, None)).collect(),
        allowing: allowing.into_iter().map(|rule| explain_rule(rule, None)).collect(),
        possible: possible.into_iter().map(|miss| explain_rule(miss.rule, None)).collect(),
        misses: misses.into_iter().map(|miss| explain_rule(miss.rule, Some(miss.reason))).collect(),
        pod,
        direction,
        verdict,
        tier,
        isolating,
        cluster_policies,
    }
}

fn summary(decision: &EndDecision) -> String {
    let EndDecision { pod, direction, .. } = decision;
    let of_tier = match decision.tier {
        Some(Tier::Admin) => Some("Admin"),
        Some(Tier::Baseline) => Some("Baseline"),
        Some(Tier::NetworkPolicy) | None => None,
    };
    match decision.verdict {
        EndVerdict::NotIsolated if decision.cluster_policies.is_empty() => {
            format!("allowed: no policy isolates {pod} for {direction}")
        }
        EndVerdict::NotIsolated => format!(
            "allowed: no NetworkPolicy isolates {pod} for {direction}, and no rule of a ClusterNetworkPolicy decides"
        ),
        EndVerdict::Allowed => match of_tier {
            Some(tier) => format!("allowed: a rule of the {tier} tier accepts the connection"),
            None => format!(
                "allowed: {pod} is isolated for {direction}, and a rule allows the connection"
            ),
        },
        EndVerdict::Denied => {
            let tier = of_tier.map_or_else(String::new, |tier| format!(" of the {tier} tier"));
            format!("denied: a rule{tier} denies the connection")
        }
        EndVerdict::NotAllowed => {
            format!("denied: {pod} is isolated for {direction}, and no rule allows the connection")
        }
        EndVerdict::Audited if decision.denying.is_some() => {
            "allowed: a rule denies the connection, but its policy is in audit mode".to_owned()
        }
        EndVerdict::Audited => format!(
            "allowed: no rule allows the connection, but all policies that isolate {pod} for {direction} are in \
             audit mode"
        ),
        EndVerdict::OwnNode => format!("allowed: the peer is the node of {pod}"),
        EndVerdict::Itself => format!("allowed: {pod} connects to itself"),
        EndVerdict::Deferred => {
            "deferred: decided after Service translation, on the backend pod".to_owned()
        }
    }
}

/// The connection from the point of view of one pod.
struct View<'a> {
    state: &'a ClusterState,
    /// The policies as written.
    written: &'a ClusterState,
    direction: Direction,
    remote: IpAddr,
    remote_pod: Option<&'a Pod>,
    destination_pod: Option<&'a Pod>,
    transport: Transport,
    port: u16,
}

impl<'a> View<'a> {
    fn new(states: &States<'a>, route: &Route, direction: Direction) -> Self {
        let States { certain: state, possible: _, written } = *states;
        let remote = match direction {
            Direction::Ingress => route.source,
            Direction::Egress => route.destination,
        };
        Self {
            state,
            written,
            direction,
            remote,
            remote_pod: state.owner(remote),
            destination_pod: state.owner(route.destination),
            transport: route.transport,
            port: route.port,
        }
    }

    /// The sentence on a rule; empty if the policy has been removed from the state.
    fn sentence(&self, rule: &RuleRef, miss: Option<MissReason>) -> String {
        let Some(found) = rule_in_words(self.written, rule) else { return String::new() };
        let name = found.name_in_brackets();
        format!("{rule}{name} {}", self.predicate(rule, &found, miss))
    }

    fn predicate(
        &self,
        source: &RuleRef,
        found: &RuleInWords<'_>,
        miss: Option<MissReason>,
    ) -> String {
        let RuleInWords { rule, action, .. } = found;
        let (verb, infinitive) = match action {
            Action::Accept => ("allows", "allow"),
            Action::Deny => ("denies", "deny"),
            Action::Pass => ("passes on", "pass on"),
        };
        let requested = format!("{}/{}", self.transport, self.port);
        let ports = words::ports(&rule.ports, self.destination_pod);
        let peers = words::peers(&rule.peers, self.direction);
        match miss {
            None => format!("{verb} {ports} {peers}"),
            Some(MissReason::Port) => format!("{verb} this peer on {ports}, not on {requested}"),
            Some(MissReason::Peer) => {
                let namespace = &source.policy.name.namespace;
                let reasons =
                    words::why_not(self.state, namespace, rule, self.remote, self.remote_pod);
                format!("{verb} {requested} {peers}{reasons}")
            }
            Some(MissReason::Precedence) => {
                format!("{verb} {ports} {peers}, but a rule with precedence decides")
            }
            Some(MissReason::Capacity) => format!(
                "would {infinitive} {ports} {peers}, but exceeds the capacity of the node's maps"
            ),
            Some(MissReason::Both) => {
                format!("{verb} {ports} {peers}: neither the peer nor the port matches")
            }
        }
    }
}

#[cfg(test)]
mod tests;
