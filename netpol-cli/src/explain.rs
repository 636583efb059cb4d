//! `explain`: why a connection is allowed or denied.

use std::io;

use netpol_policy::model::Pod;
use netpol_policy::resolve::RuleRef;
use netpol_policy::simulate::{Cluster, Engine, Probe, explain, with_implicit_namespaces};
use netpol_terminal::{DENIED, FAILED, Output, Terminal};

use crate::args::ExplainArgs;
use crate::input;

/// Exit codes: 0 if the connection is allowed, 1 if it is denied.
pub(super) fn run(args: ExplainArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let ExplainArgs { from, to, port, protocol, files, cluster, output } = args;
    anyhow::ensure!(!files.is_empty() || cluster.is_asked(), input::NO_OBJECTS);
    let probe = Probe { from, to, port, transport: protocol };
    let input = input::read(&files, &cluster, terminal)?;
    input::tell_findings(&input.manifests, terminal, |_| false);
    let (objects, _) = with_implicit_namespaces(input.objects());
    let mut cluster = Cluster::new(Engine::Reference);
    cluster.set(objects)?;
    let found = cluster.findings();
    let diagnostics = input.diagnostics().chain(&found);
    let is_left_out = |_: &Pod, rule: &RuleRef| cluster.left_out().contains_key(rule);
    let explanation = explain(cluster.state(), &probe, diagnostics, is_left_out);
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut terminal.stdout, &explanation)
                .map_err(io::Error::from)?;
            writeln!(terminal.stdout)?;
        }
        Output::Text => explanation.write_text(&mut terminal.stdout)?,
    }
    if input::is_incomplete(&input.manifests) || explanation.problem.is_some() {
        return Ok(FAILED);
    }
    Ok(if explanation.is_allowed { 0 } else { DENIED })
}
