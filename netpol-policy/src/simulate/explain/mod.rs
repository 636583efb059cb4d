//! Why a connection is allowed or denied.
//!
//! In: a state and a question. Out: an [`Explanation`]: values and sentences, ready to be shown or sent. The verdict is
//! that of the reference semantics.

mod text;
mod words;

use std::net::{IpAddr, SocketAddr};

use netpol_common::ids::Direction;
use serde::{Deserialize, Serialize};

use super::locate::{Located, Route, locate};
use super::probe::{Probe, Problem};
use crate::model::{Diagnostic, Kind, ObjectName, ObjectRef, Pod, Policy, Rule, Transport};
use crate::resolve::{
    Connection, Decision, EndDecision, EndVerdict, MissReason, PolicyRef, RuleRef, Tier, evaluate,
};
use crate::store::ClusterState;

/// The verdict on a connection, with everything that led to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Who opens the connection, as asked.
    pub from: String,
    /// Whom it is for, as asked.
    pub to: String,
    /// The destination port, as asked.
    pub port: String,
    /// The protocol.
    pub protocol: Transport,
    /// Whether both ends let it pass.
    pub is_allowed: bool,
    /// Why there can be no such connection; then there is nothing else.
    pub problem: Option<String>,
    /// How the Service that was asked for is translated: to the packets that were judged, or to others.
    pub service: Option<String>,
    /// The packets that were judged.
    pub connection: Option<Packets>,
    /// What the source's policies say; `None` if it is no pod.
    pub egress: Option<EndExplanation>,
    /// What the destination's policies say; `None` if it is no pod.
    pub ingress: Option<EndExplanation>,
    /// Findings on the policies that isolate an end: what is written there is not all in force.
    pub diagnostics: Vec<String>,
}

/// Addresses and port of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port, host byte order.
    pub port: u16,
}

/// What the policies of one end say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndExplanation {
    /// The pod.
    pub pod: ObjectName,
    /// The direction as it sees it.
    pub direction: Direction,
    /// What follows.
    pub verdict: EndVerdict,
    /// Whether the connection passes this end.
    pub is_allowed: bool,
    /// The verdict as a sentence.
    pub summary: String,
    /// The tier whose rules, or whose implied deny, decided; `None` if no policy did.
    pub tier: Option<Tier>,
    /// The policies that isolate the pod.
    pub isolating: Vec<PolicyRef>,
    /// The rules that allow the connection.
    pub allowing: Vec<RuleSays>,
    /// The rules that do not, the nearest misses first.
    pub misses: Vec<RuleSays>,
}

/// What one rule says about the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSays {
    /// The rule.
    pub rule: RuleRef,
    /// What does not match; `None` if the rule allows the connection.
    pub miss: Option<MissReason>,
    /// The same as a sentence.
    pub sentence: String,
}

/// Explains the verdict on a probe. Of the diagnostics, those of policies that isolate an end are passed on. `is_left_out`
/// tells for which rules the maps have no room, at a pod.
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
    let routes = match locate(state, probe) {
        Ok(Located::Routes(routes)) => routes,
        Ok(Located::NoBackend { source: _, asked: (address, _) }) => {
            explanation.problem = Some(Problem::NoBackend(address).to_string());
            return explanation;
        }
        Err(problem) => {
            explanation.problem = Some(problem.to_string());
            return explanation;
        }
    };
    let judged: Vec<(Route, Decision)> = routes
        .iter()
        .map(|route| {
            let Route { source, asked: _, destination, transport, port } = *route;
            let mut decision =
                evaluate(state, &Connection { source, destination, transport, port });
            decision.leave_out(state, &is_left_out);
            (*route, decision)
        })
        .collect();
    explanation.service = service(state, &judged);
    // Of several ways, the first one that is closed decides.
    let closed = judged.iter().position(|(_, decision)| !decision.is_allowed());
    let Some((route, decision)) = judged.into_iter().nth(closed.unwrap_or(0)) else {
        return explanation;
    };
    let Route { source, asked: _, destination, transport: _, port } = route;
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

/// A sentence on the pods behind the Service that was asked for, if it was one.
fn service(state: &ClusterState, judged: &[(Route, Decision)]) -> Option<String> {
    let (route, _) = judged.first()?;
    let (address, _) = route.asked;
    let service = state.services().find(|service| {
        route.asked != (route.destination, route.port) && service.addresses.contains(&address)
    })?;
    let backends = judged.iter().map(|(route, decision)| {
        let verdict = if decision.is_allowed() { "allowed" } else { "denied" };
        format!("{} ({verdict})", SocketAddr::new(route.destination, route.port))
    });
    let backends: Vec<String> = backends.collect();
    Some(format!("{address} is Service {}, which stands for {}", service.name, backends.join(", ")))
}

fn explain_end(state: &ClusterState, route: &Route, decision: EndDecision) -> EndExplanation {
    let EndDecision { pod, direction, verdict, tier, isolating, allowing, misses } = decision;
    let view = View::new(state, route, direction);
    let say = |rule: RuleRef, miss| {
        let sentence = view.sentence(&rule, miss);
        RuleSays { rule, miss, sentence }
    };
    EndExplanation {
        is_allowed: verdict.is_pass(),
        summary: summary(&pod, direction, verdict),
        allowing: allowing.into_iter().map(|rule| say(rule, None)).collect(),
        misses: misses.into_iter().map(|miss| say(miss.rule, Some(miss.reason))).collect(),
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
        EndVerdict::Allowed => format!("allowed: {pod} is isolated, and a rule allows this"),
        EndVerdict::Denied => format!("denied: a rule denies this to {pod} for {direction}"),
        EndVerdict::NotAllowed => format!("denied: {pod} is isolated, and no rule allows this"),
        EndVerdict::Audited => format!(
            "allowed: no rule allows this, but the policies that isolate {pod} are only audited"
        ),
        EndVerdict::OwnNode => format!("allowed: the other end is the node of {pod}"),
        EndVerdict::Itself => format!("allowed: {pod} talks to itself"),
        EndVerdict::Deferred => "open: decided when the Service's backend is known".to_owned(),
    }
}

/// One end's view of the connection.
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

    /// What a rule says; empty if it is not known any more.
    fn sentence(&self, rule: &RuleRef, miss: Option<MissReason>) -> String {
        let Some(policy) = self.state.policy(&rule.policy.name) else { return String::new() };
        let found = policy.rules(self.direction).iter().find(|found| found.index == rule.index);
        let Some(found) = found else { return String::new() };
        format!(
            "rule {} of {} {}",
            rule.index + 1,
            rule.policy,
            self.predicate(policy, found, miss)
        )
    }

    fn predicate(&self, policy: &Policy, rule: &Rule, miss: Option<MissReason>) -> String {
        let asked = format!("{}/{}", self.transport, self.port);
        let ports = words::ports(&rule.ports, self.destination_pod);
        let peers = words::peers(&rule.peers, self.direction);
        match miss {
            None => format!("allows {ports} {peers}"),
            Some(MissReason::Port) => format!("allows this peer on {ports}, not on {asked}"),
            Some(MissReason::Peer) => {
                let reasons =
                    words::why_not(self.state, policy, rule, self.remote, self.remote_pod);
                format!("allows {asked} {peers}{reasons}")
            }
            Some(MissReason::Capacity) => {
                format!("would allow {ports} {peers}, but it exceeds the capacity of the node")
            }
            Some(MissReason::Both) => {
                format!("allows {ports} {peers}: neither peer nor port is this one")
            }
        }
    }
}

#[cfg(test)]
mod tests;
