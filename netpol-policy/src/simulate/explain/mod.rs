//! Explains why a connection is allowed or denied.
//!
//! In: a state and a probe. Out: an [`Explanation`] with the verdict of the reference semantics, and with a sentence for each
//! policy rule concerned. Must not: print.

mod explanation;
mod text;
mod words;

use std::net::{IpAddr, SocketAddr};

use netpol_common::ids::Direction;

pub use explanation::{DirectionExplanation, Explanation, Packets, RuleExplanation};

use super::probe::{Probe, Problem};
use super::routes::{Route, Routes, routes};
use crate::model::{Diagnostic, Kind, ObjectName, ObjectRef, Pod, Policy, Rule, Transport};
use crate::resolve::{
    Connection, Decision, EndDecision, EndVerdict, MissReason, PolicyRef, RuleRef, evaluate,
};
use crate::store::ClusterState;

/// Explains the verdict on a probe. The explanation contains those of `diagnostics` that concern a policy that isolates the
/// source or the destination. `is_left_out` returns whether a rule is not in force at a pod because it would exceed the map
/// capacities.
pub fn explain<'a>(
    state: &ClusterState,
    probe: &Probe,
    diagnostics: impl IntoIterator<Item = &'a Diagnostic>,
    is_left_out: impl Fn(&Pod, &RuleRef) -> bool,
) -> Explanation {
    let mut explanation = Explanation {
        from: probe.from.to_string(),
        to: probe.to.to_string(),
        port: probe.port.to_string(),
        protocol: probe.transport,
        is_allowed: false,
        problem: None,
        service: None,
        connection: None,
        egress: None,
        ingress: None,
        diagnostics: Vec::new(),
    };
    let routes = match routes(state, probe) {
        Ok(Routes::Found(routes)) => routes,
        Ok(Routes::NoBackend { source: _, original: (address, _) }) => {
            explanation.problem = Some(Problem::NoBackend(address).to_string());
            return explanation;
        }
        Err(problem) => {
            explanation.problem = Some(problem.to_string());
            return explanation;
        }
    };
    let evaluated: Vec<(Route, Decision)> = routes
        .iter()
        .map(|route| {
            let Route { source, original: _, destination, transport, port } = *route;
            let mut decision =
                evaluate(state, &Connection { source, destination, transport, port });
            decision.leave_out(state, &is_left_out);
            (*route, decision)
        })
        .collect();
    explanation.service = service(state, &evaluated);
    // Of several backends, the first one that is denied is explained.
    let denied = evaluated.iter().position(|(_, decision)| !decision.is_allowed());
    let Some((route, decision)) = evaluated.into_iter().nth(denied.unwrap_or(0)) else {
        return explanation;
    };
    let Route { source, original: _, destination, transport: _, port } = route;
    explanation.is_allowed = decision.is_allowed();
    explanation.connection = Some(Packets { source, destination, port });
    explanation.egress = decision.egress.map(|end| explain_end(state, &route, end));
    explanation.ingress = decision.ingress.map(|end| explain_end(state, &route, end));
    let ends = [&explanation.egress, &explanation.ingress];
    let is_involved = |diagnostic: &&Diagnostic| {
        let ObjectRef { kind, name } = &diagnostic.object;
        let is_policy =
            |policy: &PolicyRef| Kind::from(policy.kind) == *kind && policy.name == *name;
        ends.into_iter().flatten().any(|end| end.isolating.iter().any(is_policy))
    };
    let involved = diagnostics.into_iter().filter(is_involved).map(ToString::to_string);
    explanation.diagnostics = involved.collect();
    explanation
}

/// A sentence on the backend pods of the Service, if the destination is a Service address.
fn service(state: &ClusterState, evaluated: &[(Route, Decision)]) -> Option<String> {
    let (route, _) = evaluated.first()?;
    let (address, _) = route.original;
    let service = state.services().find(|service| {
        route.original != (route.destination, route.port) && service.addresses.contains(&address)
    })?;
    let backends = evaluated.iter().map(|(route, decision)| {
        let verdict = if decision.is_allowed() { "allowed" } else { "denied" };
        format!("{} ({verdict})", SocketAddr::new(route.destination, route.port))
    });
    let backends: Vec<String> = backends.collect();
    Some(format!("{address} is Service {} with backends {}", service.name, backends.join(", ")))
}

fn explain_end(state: &ClusterState, route: &Route, decision: EndDecision) -> DirectionExplanation {
    let EndDecision { pod, direction, verdict, tier, isolating, allowing, misses } = decision;
    let view = View::new(state, route, direction);
    let explain_rule = |rule: RuleRef, miss| {
        let sentence = view.sentence(&rule, miss);
        RuleExplanation { rule, miss, sentence }
    };
    DirectionExplanation {
        is_allowed: verdict.is_pass(),
        summary: summary(&pod, direction, verdict),
        allowing: allowing.into_iter().map(|rule| explain_rule(rule, None)).collect(),
        misses: misses.into_iter().map(|miss| explain_rule(miss.rule, Some(miss.reason))).collect(),
        pod,
        direction,
        verdict,
        tier,
        isolating,
    }
}

fn summary(pod: &ObjectName, direction: Direction, verdict: EndVerdict) -> String {
    match verdict {
        EndVerdict::NotIsolated => format!("allowed: no policy isolates {pod} for {direction}"),
        EndVerdict::Allowed => {
            format!("allowed: {pod} is isolated for {direction}, and a rule allows the connection")
        }
        EndVerdict::Denied => {
            format!("denied: a rule of {pod} for {direction} denies the connection")
        }
        EndVerdict::NotAllowed => {
            format!("denied: {pod} is isolated for {direction}, and no rule allows the connection")
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
    direction: Direction,
    remote: IpAddr,
    remote_pod: Option<&'a Pod>,
    destination_pod: Option<&'a Pod>,
    transport: Transport,
    port: u16,
}

impl<'a> View<'a> {
    fn new(state: &'a ClusterState, route: &Route, direction: Direction) -> Self {
        let remote = match direction {
            Direction::Ingress => route.source,
            Direction::Egress => route.destination,
        };
        Self {
            state,
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
        let Some(policy) = self.state.policy(&rule.policy.name) else { return String::new() };
        let found = policy.rules(self.direction).iter().find(|found| found.index == rule.index);
        let Some(found) = found else { return String::new() };
        format!("{rule} {}", self.predicate(policy, found, miss))
    }

    fn predicate(&self, policy: &Policy, rule: &Rule, miss: Option<MissReason>) -> String {
        let requested = format!("{}/{}", self.transport, self.port);
        let ports = words::ports(&rule.ports, self.destination_pod);
        let peers = words::peers(&rule.peers, self.direction);
        match miss {
            None => format!("allows {ports} {peers}"),
            Some(MissReason::Port) => format!("allows this peer on {ports}, not on {requested}"),
            Some(MissReason::Peer) => {
                let reasons =
                    words::why_not(self.state, policy, rule, self.remote, self.remote_pod);
                format!("allows {requested} {peers}{reasons}")
            }
            Some(MissReason::Capacity) => {
                format!("would allow {ports} {peers}, but exceeds the capacity of the node's maps")
            }
            Some(MissReason::Both) => {
                format!("allows {ports} {peers}: neither the peer nor the port matches")
            }
        }
    }
}

#[cfg(test)]
mod tests;
