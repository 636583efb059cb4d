//! Compares expectations with the verdicts of a cluster.
//!
//! In: a cluster and an expectation. Out: the connections whose verdict differs, each with the reason for its verdict. A name or a
//! port that nothing has is a mistake of the file. Must not: print.

use std::collections::BTreeSet;
use std::sync::Arc;

use netpol_policy::model::{ContainerPort, Pod, PortName, Transport};
use netpol_policy::simulate::{
    Explanation, JudgedConnection, OfflineCluster, PodOrIp, PortChoice, Probe, Problem, Verdict,
    resolve,
};

use super::coverage::Coverage;
use super::file::{End, Expectation, Expected, Mistake, Undeclared};
use crate::simulate::{ChangedPorts, ports_in_words};

/// The largest number of differing connections that one expectation reports.
const MAX_REPORTED: usize = 5;

/// The result of one expectation.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Sentences on the connections whose verdict differs, the first ones only.
    pub(super) failures: Vec<String>,
    /// Number of pairs of a source and a destination with another verdict.
    pub(super) n_failed: usize,
    /// Number of pairs.
    pub(super) n_pairs: usize,
}

/// One file's cluster, and where its names are looked up.
pub(super) struct Context<'a> {
    pub(super) cluster: &'a OfflineCluster,
    pub(super) namespace: Option<&'a str>,
    pub(super) coverage: &'a mut Coverage,
}

impl Context<'_> {
    /// Evaluates an expectation.
    pub(super) fn check(&mut self, expectation: &Expectation) -> Result<Outcome, Mistake> {
        let Expectation { line, from, to, port: _, expected, except, is_undeclared: _, text } =
            expectation;
        let because = |line: u64, message: String| Mistake::at(line, format!("{text}: {message}"));
        let sources = self.ends(from).map_err(|message| because(*line, message))?;
        let destinations = self.ends(to).map_err(|message| because(*line, message))?;
        self.check_port(expectation, &destinations).map_err(|message| because(*line, message))?;
        let mut exceptions: BTreeSet<PodOrIp> = BTreeSet::new();
        let pattern = if from.is_pattern() { &sources } else { &destinations };
        for (end, line) in except {
            let ends = self.ends(end).map_err(|message| because(*line, message))?;
            if !ends.iter().all(|end| pattern.contains(end)) {
                let message = format!("except {end}: it is no part of the pattern");
                return Err(because(*line, message));
            }
            exceptions.extend(ends);
        }
        let mut outcome = Outcome::default();
        for from in &sources {
            for to in destinations.iter().filter(|to| *to != from) {
                let is_exception = exceptions.contains(from) || exceptions.contains(to);
                let expected = if is_exception { expected.opposite() } else { *expected };
                self.check_pair((from, to), expectation, expected, &mut outcome)
                    .map_err(|message| because(*line, message))?;
            }
        }
        if outcome.n_pairs == 0 {
            return Err(because(*line, "it is about no connection".to_owned()));
        }
        Ok(outcome)
    }

    /// The sources or destinations that an end stands for.
    fn ends(&self, end: &End) -> Result<Vec<PodOrIp>, String> {
        let pods = |namespace: Option<&str>| {
            let is_in = |pod: &PodOrIp| {
                pod.pod_name().is_some_and(|name| {
                    namespace.is_none_or(|namespace| *name.namespace == *namespace)
                })
            };
            self.cluster.pods().into_iter().filter(is_in).collect::<Vec<_>>()
        };
        match end {
            End::Any => Ok(pods(None).into_iter().chain([PodOrIp::External]).collect()),
            End::Pods { namespace } => {
                let found = pods(namespace.as_deref());
                if found.is_empty() { Err(format!("there is no pod {end}")) } else { Ok(found) }
            }
            End::Named(name) => resolve(self.cluster.state(), name, self.namespace)
                .map(|end| vec![end])
                .map_err(|unresolved| unresolved.to_string()),
        }
    }

    fn pod(&self, end: &PodOrIp) -> Option<&Pod> {
        self.cluster.state().pod(end.pod_name()?)
    }

    /// Whether one of the destinations has the port. A name must be one that a destination has.
    fn check_port(
        &self,
        expectation: &Expectation,
        destinations: &[PodOrIp],
    ) -> Result<(), String> {
        let Some((port, transport)) = &expectation.port else { return Ok(()) };
        let pods: Vec<&Pod> = destinations.iter().filter_map(|end| self.pod(end)).collect();
        if pods.len() < destinations.len() {
            return Ok(());
        }
        let has = |pod: &&Pod| number(pod, port, *transport).is_some_and(|found| found.is_declared);
        if pods.iter().any(has) {
            return Ok(());
        }
        let declared: BTreeSet<String> = pods
            .iter()
            .flat_map(|pod| pod.ports.iter())
            .map(|port| format!("{}/{}", port.number, port.transport))
            .collect();
        let declared: Vec<String> = declared.into_iter().collect();
        let is_number = matches!(port, PortChoice::Number(_));
        let is_permitted = expectation.is_undeclared == Undeclared::Permitted;
        if is_number && (declared.is_empty() || is_permitted) {
            return Ok(());
        }
        let has = if declared.is_empty() {
            "it declares no port".to_owned()
        } else {
            format!("it declares {}", declared.join(", "))
        };
        let hint = if is_number { "; if this is meant, add `undeclared: true`" } else { "" };
        Err(format!("no pod of {} has the port {port}/{transport}: {has}{hint}", expectation.to))
    }

    /// The ports of a pair to ask about.
    fn ports(
        &self,
        (from, to): (&PodOrIp, &PodOrIp),
        expectation: &Expectation,
        expected: Expected,
    ) -> Result<Vec<(Transport, PortChoice)>, String> {
        let to_pattern = expectation.to.is_pattern();
        let pod = self.pod(to);
        if let Some((port, transport)) = &expectation.port {
            // Of a pattern, a pod that has no such port cannot allow it, and one without the name has no such connection.
            let is_asked = match (pod, port) {
                (Some(pod), port) if to_pattern => {
                    let found = number(pod, port, *transport);
                    found.is_some_and(|found| found.is_declared || (expected == Expected::Denied))
                }
                (_, PortChoice::Name(_)) if to_pattern => false,
                (Some(_) | None, _) => true,
            };
            return Ok(is_asked.then(|| (*transport, port.clone())).into_iter().collect());
        }
        if let (Some(pod), Expected::Allowed) = (pod, expected) {
            if pod.ports.is_empty() && !to_pattern {
                return Err(format!(
                    "{to} declares no port: name one, as in {}:80",
                    expectation.to
                ));
            }
            let declared: BTreeSet<(Transport, PortChoice)> = pod
                .ports
                .iter()
                .map(|port| (port.transport, PortChoice::Number(port.number)))
                .collect();
            return Ok(declared.into_iter().collect());
        }
        let starts = self.cluster.port_starts_between(from, to).into_iter();
        Ok(starts.map(|(transport, port)| (transport, PortChoice::Number(port))).collect())
    }

    fn check_pair(
        &mut self,
        (from, to): (&PodOrIp, &PodOrIp),
        expectation: &Expectation,
        expected: Expected,
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let is_pattern = expectation.from.is_pattern() || expectation.to.is_pattern();
        let ports = self.ports((from, to), expectation, expected)?;
        let mut failed: Vec<(Transport, ChangedPorts)> = Vec::new();
        let mut first: Option<(Probe, JudgedConnection)> = None;
        let mut n_asked = 0_usize;
        for (at, (transport, port)) in ports.iter().enumerate() {
            let probe = Probe {
                from: from.clone(),
                to: to.clone(),
                port: port.clone(),
                transport: *transport,
            };
            let judged = match self.cluster.judge(&probe) {
                Ok(judged) => judged,
                Err(Problem::NoCommonFamily | Problem::NothingExternal) if is_pattern => continue,
                Err(problem) => return Err(problem.to_string()),
            };
            n_asked += 1;
            for judged in &judged {
                self.coverage.add(judged);
            }
            let wanted = match expected {
                Expected::Allowed => Verdict::Allowed,
                Expected::Denied => Verdict::Denied,
            };
            let Some(other) = judged.into_iter().find(|judged| judged.verdict != wanted) else {
                continue;
            };
            failed.push((*transport, ports_until_next(&ports, at, expectation, expected)));
            first.get_or_insert((probe, other));
        }
        outcome.n_pairs += usize::from(n_asked > 0);
        let Some((probe, judged)) = first else { return Ok(()) };
        outcome.n_failed += 1;
        if outcome.failures.len() < MAX_REPORTED {
            let failed: Vec<(Transport, &ChangedPorts)> =
                failed.iter().map(|(transport, ports)| (*transport, ports)).collect();
            let ports = ports_in_words(&failed);
            outcome.failures.push(self.sentence(&probe, &judged, &ports));
        }
        Ok(())
    }

    /// The verdict and its reason.
    fn sentence(&self, probe: &Probe, judged: &JudgedConnection, ports: &str) -> String {
        let Probe { from, to, port: _, transport: _ } = probe;
        let explanation = self.cluster.explain(probe, []);
        let (verdict, reason) = match judged.verdict {
            Verdict::Allowed => ("is allowed", why_allowed(&explanation)),
            Verdict::Denied => ("is denied", why_denied(&explanation)),
            Verdict::Possible => {
                ("depends on an address that is not known", why_possible(&explanation))
            }
        };
        let is_named = |end: &PodOrIp| matches!(end, PodOrIp::Pod { .. } | PodOrIp::Address(_));
        let pair = if is_named(from) && is_named(to) {
            format!("{from} -> {to}")
        } else {
            format!("{from} -> {to} ({} -> {}:{})", judged.source, judged.destination, judged.port)
        };
        format!("{pair}: {ports} {verdict}: {reason}")
    }
}

/// A port of a pod.
struct PodPort {
    is_declared: bool,
}

/// The port of a pod; `None` for a name that the pod does not have.
fn number(pod: &Pod, port: &PortChoice, transport: Transport) -> Option<PodPort> {
    match port {
        PortChoice::Number(number) => {
            let is_it = |of: &ContainerPort| (of.number, of.transport) == (*number, transport);
            Some(PodPort { is_declared: pod.ports.iter().any(is_it) })
        }
        PortChoice::Name(name) => {
            let name = PortName::parse(name)?;
            pod.named_ports(&name, transport).next().map(|_| PodPort { is_declared: true })
        }
    }
}

/// The ports that one question answers: the named one, or all until the next port at which a verdict can change.
fn ports_until_next(
    ports: &[(Transport, PortChoice)],
    at: usize,
    expectation: &Expectation,
    expected: Expected,
) -> ChangedPorts {
    let number = |at: usize| match ports.get(at) {
        Some((transport, PortChoice::Number(number))) => Some((*transport, *number)),
        Some((_, PortChoice::Name(_))) | None => None,
    };
    match (ports.get(at), number(at)) {
        (Some((_, PortChoice::Name(name))), _) => ChangedPorts::Named(Arc::clone(name)),
        (_, Some((transport, first))) => {
            let is_range = expectation.port.is_none() && expected == Expected::Denied;
            let next = number(at + 1).filter(|(of, _)| *of == transport);
            let last = match next {
                _ if !is_range => first,
                Some((_, next)) => next.saturating_sub(1),
                None => u16::MAX,
            };
            ChangedPorts::Range(first, last)
        }
        (_, None) => ChangedPorts::Range(1, u16::MAX),
    }
}

fn why_allowed(explanation: &Explanation) -> String {
    let ends = [&explanation.egress, &explanation.ingress].into_iter().flatten();
    let reasons: Vec<String> = ends
        .map(|end| {
            let summary = end.summary.strip_prefix("allowed: ").unwrap_or(&end.summary);
            end.allowing.first().map_or(summary, |rule| &rule.sentence).to_owned()
        })
        .collect();
    reasons.join("; ")
}

fn why_denied(explanation: &Explanation) -> String {
    let ends = [&explanation.egress, &explanation.ingress].into_iter().flatten();
    let denied = ends.filter(|end| !end.is_allowed).map(|end| {
        let summary = end.summary.strip_prefix("denied: ").unwrap_or(&end.summary);
        match (&end.denying, end.misses.first()) {
            (Some(rule), _) => rule.sentence.clone(),
            (None, Some(miss)) => format!("{summary} ({})", miss.sentence),
            (None, None) => summary.to_owned(),
        }
    });
    denied.collect::<Vec<_>>().join("; ")
}

fn why_possible(explanation: &Explanation) -> String {
    let ends = [&explanation.egress, &explanation.ingress].into_iter().flatten();
    let rules = ends.flat_map(|end| &end.possible).map(|rule| rule.sentence.clone());
    rules.collect::<Vec<_>>().join("; ")
}
