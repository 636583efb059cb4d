//! `policy`: one policy on this node.

use anyhow::Context as _;
use netpol_terminal::{Output, Terminal};

use super::args::PolicyArgs;
use super::ask::get;
use crate::agent::{PolicyPod, PolicyReport};

/// Shows one policy.
pub(super) fn run(args: PolicyArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let PolicyArgs { policy, agent, output } = args;
    let text = get(&agent, &format!("/policy?name={policy}"))?;
    if output == Output::Json {
        writeln!(terminal.stdout, "{text}")?;
        return Ok(0);
    }
    let report: PolicyReport = serde_json::from_str(&text).context("parsing the agent's answer")?;
    let out = &mut terminal.stdout;
    let Some(revision) = &report.revision else {
        writeln!(out, "{}: the agent knows no such policy", report.policy)?;
        return Ok(0);
    };
    let force = match &report.from_before {
        Some(from_before) => from_before.to_string(),
        None if report.is_in_force => "in force".to_owned(),
        None => "NOT in force".to_owned(),
    };
    let held = if report.is_held { ", deleted; in force until its namespace is gone" } else { "" };
    writeln!(out, "{}: generation {} is {force}{held}", report.policy, revision.generation)?;
    for PolicyPod { pod, directions, protection } in &report.pods {
        let directions: Vec<_> = directions.iter().map(ToString::to_string).collect();
        writeln!(out, "  pod {pod}: {}, {}", directions.join(" and "), protection.as_str())?;
    }
    for rule in &report.rules {
        let (n, s) = (rule.n_connections, rule.counted_s);
        writeln!(out, "  {}: {n} connections in {s} s", rule.rule)?;
    }
    for rule in &report.left_out {
        writeln!(out, "  {rule} exceeds the capacity of the maps and allows nothing")?;
    }
    Ok(0)
}
