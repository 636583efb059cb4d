//! Oracles compared with a scenario's table.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use netpol_common::ids::Nanos;
use netpol_policy::model::Transport;
use netpol_policy::resolve::{Connection, Decision, EndVerdict, evaluate};
use netpol_policy::simulate::{Cluster, Engine};

use super::question::{Question, What};
use super::{Expectation, Scenario, State};
use crate::case::Protocol;
use crate::oracle::Oracle;
use crate::oracles::{question, read};
use crate::wire::{Nat, Wire};

/// The verdict of an oracle: whether the connection is made, and why, if it gives a reason.
type Says = (bool, Option<String>);

/// Where the independent oracle differs. It has no verdict for protocols without ports.
///
/// # Errors
/// When the scenario cannot be read.
pub fn check_oracle(scenario: &Scenario) -> Result<Vec<String>> {
    compare(scenario, &mut |state, question| {
        let oracle = Oracle::new(&state.objects);
        let allows = |probe| match question.nat {
            Nat::None => oracle.allows(&probe),
            Nat::Source(_) | Nat::Destination(_) => oracle.allows_through_service(&probe),
        };
        Ok(question.probe().map(|probe| (allows(probe), None)))
    })
}

/// Where the reference semantics differs, in verdict or reason. It has no verdict for protocols without ports.
///
/// # Errors
/// When the scenario cannot be read.
pub fn check_reference(scenario: &Scenario) -> Result<Vec<String>> {
    let mut cluster = Cluster::new(Engine::Reference);
    let mut known = None;
    compare(scenario, &mut |state, asked| {
        if known.as_deref() != Some(state.about) {
            cluster.set(read(&state.objects).0)?;
            known = Some(state.about.to_owned());
        }
        let Some(probe) = asked.probe() else { return Ok(None) };
        let is_allowed = cluster.probe(&question(&probe))?.is_allowed;
        let Some((source, destination, port)) = Oracle::new(&state.objects).connection(&probe)
        else {
            return Ok(Some((is_allowed, Some("no-connection".to_owned()))));
        };
        let transport = match probe.protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
            Protocol::Sctp => Transport::Sctp,
        };
        let is_translated = asked.nat != Nat::None;
        let is_masqueraded = false;
        let connection =
            Connection { source, destination, transport, port, is_translated, is_masqueraded };
        let decision = evaluate(cluster.state(), &connection);
        // A probe names the destination itself, not the Service that leads there.
        let is_allowed = if is_translated { decision.is_allowed() } else { is_allowed };
        Ok(Some((is_allowed, Some(reason(&decision)?))))
    })
}

/// Where `decide` over the maps differs; the maps follow the states one after the other. With [`Reasons::Count`], reasons are
/// compared where the reference gives none: for protocols without ports, and through Services.
///
/// # Errors
/// When the scenario cannot be read, or the maps cannot be used.
pub fn check_wire(scenario: &Scenario, wire: &mut Wire, reasons: Reasons) -> Result<Vec<String>> {
    let mut known = None;
    compare(scenario, &mut |state, question| {
        if known.as_deref() != Some(state.about) {
            wire.set(read(&state.objects).0)?;
            known = Some(state.about.to_owned());
        }
        let Some((source, destination, port)) = connection(state, question) else {
            return Ok(Some((false, None)));
        };
        let packet = question.packet(source, destination, port);
        wire.forget_flows()?;
        let walk = wire.send(&packet, question.nat, Nanos(1_000_000_000))?;
        let is_alone = question.probe().is_none() || question.nat != Nat::None;
        let reason = walk.reason().filter(|_| is_alone && reasons == Reasons::Count);
        Ok(Some((walk.passes(), reason.map(str::to_owned))))
    })
}

/// Whether reasons are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reasons {
    /// They are.
    Count,
    /// They are not.
    Ignore,
}

/// Addresses and port; a protocol without ports has port 0.
fn connection(state: &State<'_>, question: &Question) -> Option<(IpAddr, IpAddr, u16)> {
    let oracle = Oracle::new(&state.objects);
    match question.what {
        What::Port(..) => oracle.connection(&question.probe()?),
        What::Echo | What::Other(_) => {
            let (source, destination) = oracle.addresses(&question.from, &question.to)?;
            Some((source, destination, 0))
        }
    }
}

/// The reason of the deciding end: the first that drops, else one that is reported, else one whose reason is not merely that the pod
/// is not isolated, the destination before the source.
fn reason(decision: &Decision) -> Result<String> {
    let ends = [&decision.egress, &decision.ingress];
    let drop = ends.into_iter().flatten().find(|end| !end.verdict.is_pass());
    let last = ends.into_iter().rev().flatten();
    let reported = last.clone().find(|end| end.verdict == EndVerdict::Audited);
    let speaks = last.clone().find(|end| end.verdict != EndVerdict::NotIsolated);
    let Some(end) = drop.or(reported).or(speaks).or(last.clone().next()) else {
        return Ok("no-pod".to_owned());
    };
    let verdict = serde_json::to_value(end.verdict)?;
    Ok(verdict.as_str().unwrap_or_default().to_owned())
}

fn compare(
    scenario: &Scenario,
    ask: &mut dyn FnMut(&State<'_>, &Question) -> Result<Option<Says>>,
) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    for state in scenario.states().with_context(|| scenario.name.clone())? {
        for row in state.connectivity {
            for question in Question::of(row, &state.objects)? {
                let Some((passes, reason)) = ask(&state, &question)? else { continue };
                let expected = question.expect == Expectation::Pass;
                let is_reason_right = match (&reason, &question.because) {
                    (Some(reason), Some(because)) => reason == because,
                    _ => true,
                };
                if passes != expected || !is_reason_right {
                    let verb = if passes { "passes" } else { "drops" };
                    let because = reason.map_or_else(String::new, |why| format!(" ({why})"));
                    differences.push(format!("{}: {} {verb}{because}", state.about, question.text));
                }
            }
        }
    }
    Ok(differences)
}
