//! An explanation as text for people.

use std::io::{self, Write};
use std::net::SocketAddr;

use super::explanation::{DirectionExplanation, Explanation, Packets};

impl Explanation {
    /// Writes the explanation for people, as several lines.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        write_text(self, out)
    }
}

fn write_text(explanation: &Explanation, out: &mut dyn Write) -> io::Result<()> {
    let Explanation {
        from,
        to,
        port,
        protocol,
        is_allowed,
        is_possible,
        problem,
        service,
        ranges,
        connection,
        published,
        egress,
        ingress,
        diagnostics,
    } = explanation;
    let verdict = match (problem, is_allowed, is_possible) {
        (Some(_), _, _) => "impossible",
        (None, true, _) => "allowed",
        (None, false, true) => "depends on an address that is not known",
        (None, false, false) => "denied",
    };
    writeln!(out, "{from} -> {to} {port}/{protocol}: {verdict}")?;
    if let Some(problem) = problem {
        writeln!(out, "  {problem}")?;
    }
    if let Some(service) = service {
        writeln!(out, "  {service}")?;
    }
    if let Some(ranges) = ranges {
        writeln!(out, "  {ranges}")?;
    }
    if let Some(Packets { source, destination, port }) = connection {
        let destination = match destination.parse() {
            Ok(address) => SocketAddr::new(address, *port).to_string(),
            Err(_) => format!("{destination}, port {port}"),
        };
        writeln!(out, "  packets: {source} -> {destination}")?;
        for sentence in published {
            writeln!(out, "  {sentence}")?;
        }
        write_direction(egress.as_ref(), "egress", from, out)?;
        write_direction(ingress.as_ref(), "ingress", to, out)?;
    }
    if !diagnostics.is_empty() {
        writeln!(out, "\nfindings on these policies:")?;
        for diagnostic in diagnostics {
            writeln!(out, "  ! {diagnostic}")?;
        }
    }
    Ok(())
}

fn write_direction(
    explanation: Option<&DirectionExplanation>,
    direction: &str,
    name: &str,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out)?;
    let Some(explanation) = explanation else {
        return writeln!(out, "{direction}: allowed: policies do not apply to {name}");
    };
    let DirectionExplanation {
        pod: _,
        direction: _,
        verdict: _,
        is_allowed: _,
        summary,
        tier: _,
        isolating,
        cluster_policies,
        denying,
        passing,
        allowing,
        possible,
        misses,
    } = explanation;
    writeln!(out, "{direction}: {summary}")?;
    if !isolating.is_empty() {
        let names: Vec<String> = isolating.iter().map(ToString::to_string).collect();
        writeln!(out, "  isolated by {}", names.join(", "))?;
    }
    if !cluster_policies.is_empty() {
        let names: Vec<String> = cluster_policies.iter().map(ToString::to_string).collect();
        writeln!(out, "  subject of {}", names.join(", "))?;
    }
    for rule in passing {
        writeln!(out, "  > {}", rule.sentence)?;
    }
    if let Some(rule) = denying {
        writeln!(out, "  x {}", rule.sentence)?;
    }
    for rule in allowing {
        writeln!(out, "  + {}", rule.sentence)?;
    }
    for rule in possible {
        writeln!(out, "  ? {}", rule.sentence)?;
    }
    for rule in misses {
        writeln!(out, "  - {}", rule.sentence)?;
    }
    Ok(())
}
