//! `explain`: why a connection is allowed or denied.

use std::io;

use netpol_policy::model::Transport;
use netpol_policy::simulate::{
    Details, Engine, Explanation, OfflineCluster, Paint, PortChoice, Probe, TextForm,
    assumed_namespaces, resolve,
};
use netpol_terminal::{DENIED, FAILED, Output, Terminal};

use serde::Serialize;

use crate::input::{self, InputArgs, PodNetworkArgs};
use crate::live::{self, AccessArgs, AgentsArgs, Ends, ThroughArgs};
use crate::progress::Progress;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  netpol explain -f rendered/ --from deploy/web --to redis.shop.svc --port 6379
  netpol explain -f rendered/ --from external --to shop/web --port 8080
  netpol explain --cluster --from shop/front --to 10.96.0.10 --port 53 --protocol UDP
  netpol explain --cluster --live --from shop/front --to shop/redis --port 6379";

/// Explain why a connection is allowed or denied: the policies that isolate, the rules that allow, and the rules that almost
/// match.
///
/// A source or destination is `NAMESPACE/NAME` of a pod, a workload or a Service; `KIND/NAME`, such as `deploy/web`, `svc/redis`
/// or `node/n1`; the DNS name of a Service, such as `redis.shop.svc`; an IP address; a block, such as `10.0.0.0/8`; or `external`
/// for every address outside the cluster. A pod with several addresses can have one of them: `NAMESPACE/POD@ADDRESS`.
///
/// The exit code is 0 if the connection is allowed, 1 if it is denied or depends on an address that is not known, and 2 if the
/// input cannot be read or the connection cannot exist.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExplainArgs {
    /// Source of the connection.
    #[arg(long, value_name = "SOURCE")]
    from: String,
    /// Destination of the connection. A Service stands for its backends.
    #[arg(long, value_name = "DESTINATION")]
    to: String,
    /// Destination port: a number, or the name of a port of the destination.
    #[arg(long, value_name = "PORT", value_parser = PortChoice::from_argument)]
    port: PortChoice,
    /// Protocol: TCP, UDP or SCTP.
    #[arg(long, default_value = "TCP", value_parser = Transport::from_argument)]
    protocol: Transport,
    /// Namespace of names without one [default: the only namespace with such an object].
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    pod_networks: PodNetworkArgs,
    /// With --cluster, also ask the agents of the nodes of both ends what is in force there, and show where that differs from the
    /// objects of the API server. The exit code is then 1 if it differs, too, and 2 if a node does not answer.
    #[arg(long, requires = "cluster")]
    live: bool,
    #[command(flatten)]
    agents: AgentsArgs,
    #[command(flatten)]
    through: ThroughArgs,
    /// Name all policies and rules. Without it, of a long list the nearest are shown and the others are counted.
    #[arg(long)]
    all: bool,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Exit codes: 0 if the connection is allowed, 1 if it is not.
pub(super) fn run(args: ExplainArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let ExplainArgs {
        from,
        to,
        port,
        protocol,
        namespace,
        input,
        pod_networks,
        live: is_live,
        agents,
        through,
        all,
        output,
    } = args;
    let access = is_live.then(|| {
        let (kubeconfig, context) = input.cluster.access();
        AccessArgs::new(kubeconfig, context, agents)
    });
    let input = match (input::read(&input.files, &input.cluster, terminal), &access) {
        (Ok(input), _) => input,
        (Err(error), None) => return Err(error),
        (Err(error), Some(access)) => {
            let connection = (&*port.to_string(), &*protocol.to_string());
            return in_force(access, error, (&from, &to), connection, output, terminal);
        }
    };
    input::report_findings(&input.manifests, terminal, |_| false);
    let PodNetworkArgs { pod_networks, own_node_egress } = pod_networks;
    let mut cluster = OfflineCluster::new(|| Engine::Reference, pod_networks)
        .with_own_node_egress(own_node_egress);
    let objects = input.objects();
    for namespace in assumed_namespaces(&objects) {
        terminal.complain(&input::assumption(&namespace));
    }
    let progress = Progress::start(input::evaluating(objects.len()));
    cluster.set(objects)?;
    let find = |text: &str| resolve(cluster.state(), text, namespace.as_deref());
    let explanation = match (find(&from), find(&to)) {
        (Ok(from), Ok(to)) => {
            let over_capacity = cluster.findings();
            let diagnostics = input.diagnostics().chain(&over_capacity);
            cluster.explain(&Probe { from, to, port, transport: protocol }, diagnostics)
        }
        (Err(problem), _) | (_, Err(problem)) => {
            Explanation::impossible(from, to, (&port, protocol), problem.to_string())
        }
    };
    drop(progress);
    let ends = access.map(|access| live::explain((&access, through), &explanation)).transpose()?;
    let form = TextForm {
        details: if all { Details::All } else { Details::Folded },
        width: terminal.width,
        paint: if terminal.is_styled { Paint::Coloured } else { Paint::Plain },
    };
    match (output, &ends) {
        (Output::Json, None) => write_json(&explanation, terminal)?,
        (Output::Json, Some(ends)) => {
            write_json(&Live { explanation: &explanation, ends }, terminal)?;
        }
        (Output::Text, None) => explanation.write_text(form, &mut terminal.stdout)?,
        (Output::Text, Some(ends)) => {
            explanation.write_text(form, &mut terminal.stdout)?;
            ends.write_text(terminal)?;
        }
    }
    let is_incomplete = ends.as_ref().is_some_and(Ends::is_incomplete);
    if input::is_incomplete(&input.manifests) || explanation.problem.is_some() || is_incomplete {
        return Ok(FAILED);
    }
    let differ = ends.as_ref().is_some_and(Ends::differ);
    Ok(if explanation.is_allowed && !differ { 0 } else { DENIED })
}

/// What the nodes have in force, for a user who may not list the objects of the API server.
fn in_force(
    access: &AccessArgs,
    unlisted: anyhow::Error,
    (from, to): (&str, &str),
    connection: (&str, &str),
    output: Output,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<u8> {
    // Why this fails too says less than why the objects cannot be listed.
    let Ok(ends) = live::explain_in_force(access, (from, to), connection) else {
        return Err(unlisted);
    };
    terminal.complain(&format!("{unlisted:#}"));
    terminal.complain(&"what the nodes have in force, without the objects of the API server:");
    match output {
        Output::Json => write_json(&ends, terminal)?,
        Output::Text => ends.write_text(terminal)?,
    }
    if ends.is_incomplete() {
        return Ok(FAILED);
    }
    Ok(if ends.deny() || ends.differ() { DENIED } else { 0 })
}

/// With --live.
#[derive(Debug, Serialize)]
struct Live<'a> {
    #[serde(flatten)]
    explanation: &'a Explanation,
    #[serde(flatten)]
    ends: &'a Ends,
}

fn write_json(value: &impl Serialize, terminal: &mut Terminal<'_>) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut terminal.stdout, value).map_err(io::Error::from)?;
    Ok(writeln!(terminal.stdout)?)
}
