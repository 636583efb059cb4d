//! `explain`: why a connection is allowed or denied.

use std::io::{self, Write};

use super::args::{AgentArgs, ExplainArgs, Output};
use super::{DENIED, FAILED, Terminal, input};
use crate::model::Pod;
use crate::resolve::RuleRef;
use crate::simulate::{
    Cluster, EndExplanation, Engine, Explanation, Probe, explain, with_implicit_namespaces,
};

/// Exit codes: 0 if the connection is allowed, 1 if it is denied.
pub(super) fn run(args: ExplainArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let ExplainArgs { from, to, port, protocol, files, cluster, output, agent } = args;
    let probe = Probe { from, to, port, transport: protocol };
    let (explanation, is_incomplete) = if files.is_empty() && !cluster.is_asked() {
        (ask(&probe, &agent)?, false)
    } else {
        let input = input::read(&files, &cluster, terminal)?;
        input::tell_findings(&input.manifests, terminal, |_| false);
        let (objects, _) = with_implicit_namespaces(input.objects());
        let mut cluster = Cluster::new(Engine::Reference);
        cluster.set(objects)?;
        let found = cluster.findings();
        let diagnostics = input.diagnostics().chain(&found);
        let is_left_out = |_: &Pod, rule: &RuleRef| cluster.left_out().contains_key(rule);
        let explanation = explain(cluster.state(), &probe, diagnostics, is_left_out);
        (explanation, input::is_incomplete(&input.manifests))
    };
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut terminal.stdout, &explanation)
                .map_err(io::Error::from)?;
            writeln!(terminal.stdout)?;
        }
        Output::Text => write_text(&explanation, &mut terminal.stdout)?,
    }
    if is_incomplete || explanation.problem.is_some() {
        return Ok(FAILED);
    }
    Ok(if explanation.is_allowed { 0 } else { DENIED })
}

#[cfg(feature = "ebpf")]
fn ask(probe: &Probe, agent: &AgentArgs) -> anyhow::Result<Explanation> {
    super::ask::explain(probe, agent)
}

#[cfg(not(feature = "ebpf"))]
fn ask(_: &Probe, agent: &AgentArgs) -> anyhow::Result<Explanation> {
    let AgentArgs {} = agent;
    anyhow::bail!("give objects with -f: this build cannot ask an agent")
}

fn write_text(explanation: &Explanation, out: &mut dyn Write) -> io::Result<()> {
    let Explanation {
        from,
        to,
        port,
        protocol,
        is_allowed,
        problem,
        service,
        connection,
        egress,
        ingress,
        diagnostics,
    } = explanation;
    let verdict = match (problem, is_allowed) {
        (Some(_), _) => "impossible",
        (None, true) => "allowed",
        (None, false) => "denied",
    };
    writeln!(out, "{from} -> {to} {port}/{protocol}: {verdict}")?;
    if let Some(problem) = problem {
        writeln!(out, "  {problem}")?;
    }
    if let Some(service) = service {
        writeln!(out, "  {service}")?;
    }
    if let Some(packets) = connection {
        let destination = std::net::SocketAddr::new(packets.destination, packets.port);
        writeln!(out, "  packets: {} -> {destination}", packets.source)?;
        write_end(egress.as_ref(), "egress", from, out)?;
        write_end(ingress.as_ref(), "ingress", to, out)?;
    }
    if !diagnostics.is_empty() {
        writeln!(out, "\nfindings on these policies:")?;
        for diagnostic in diagnostics {
            writeln!(out, "  ! {diagnostic}")?;
        }
    }
    Ok(())
}

fn write_end(
    end: Option<&EndExplanation>,
    direction: &str,
    name: &str,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out)?;
    let Some(end) = end else {
        return writeln!(out, "{direction}: allowed: {name} is no pod that a policy could govern");
    };
    let EndExplanation {
        pod: _,
        direction: _,
        verdict: _,
        is_allowed: _,
        summary,
        isolating,
        allowing,
        misses,
    } = end;
    writeln!(out, "{direction}: {summary}")?;
    if !isolating.is_empty() {
        let names: Vec<String> = isolating.iter().map(ToString::to_string).collect();
        writeln!(out, "  isolated by {}", names.join(", "))?;
    }
    for rule in allowing {
        writeln!(out, "  + {}", rule.sentence)?;
    }
    for rule in misses {
        writeln!(out, "  - {}", rule.sentence)?;
    }
    Ok(())
}
