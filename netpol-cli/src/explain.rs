//! `explain`: why a connection is allowed or denied.

use std::io;

use netpol_policy::model::{Pod, Transport};
use netpol_policy::resolve::RuleRef;
use netpol_policy::simulate::{
    Cluster, Engine, PodOrIp, PortChoice, Probe, explain, with_implicit_namespaces,
};
use netpol_terminal::{DENIED, FAILED, Output, Terminal};

use crate::input::{self, InputArgs};

/// Explain why a connection is allowed or denied: the policies that isolate, the rules that allow, and the rules that almost
/// match.
///
/// The exit code is 0 if the connection is allowed, 1 if it is denied, and 2 if the input cannot be read or the connection cannot
/// exist.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// Source of the connection: `NAMESPACE/POD`, `NAMESPACE/POD@ADDRESS` or an IP address.
    #[arg(long, value_name = "NS/POD|IP")]
    from: PodOrIp,
    /// Destination of the connection, as for --from. The address of a Service stands for its backend pods.
    #[arg(long, value_name = "NS/POD|IP")]
    to: PodOrIp,
    /// Destination port: a number, or the name of a port of the destination pod.
    #[arg(long, value_name = "PORT", value_parser = PortChoice::from_argument)]
    port: PortChoice,
    /// Protocol: TCP, UDP or SCTP.
    #[arg(long, default_value = "TCP", value_parser = Transport::from_argument)]
    protocol: Transport,
    #[command(flatten)]
    input: InputArgs,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Exit codes: 0 if the connection is allowed, 1 if it is denied.
pub(super) fn run(args: ExplainArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let ExplainArgs { from, to, port, protocol, input, output } = args;
    let probe = Probe { from, to, port, transport: protocol };
    let input = input::read(&input.files, &input.cluster, terminal)?;
    input::report_findings(&input.manifests, terminal, |_| false);
    let (objects, _) = with_implicit_namespaces(input.objects());
    let mut cluster = Cluster::new(Engine::Reference);
    cluster.set(objects)?;
    let over_capacity = cluster.findings();
    let diagnostics = input.diagnostics().chain(&over_capacity);
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
