//! `simulate -f`: the matrix of allowed connections, and the changes that `--what-if` files would make.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::IpAddr;

use serde::Serialize;

use netpol_policy::model::{Object, Pod, Transport};
use netpol_policy::simulate::{
    Cluster, PodOrIp, PortChoice, Probe, Problem, with_implicit_namespaces,
};
use netpol_terminal::{FAILED, Output, Terminal};

use super::args::{EngineChoice, Files, PortArg};
use super::matrix::{self, Cell, Matrix, Style};
use crate::input::{self, ClusterArgs};

/// The connections to evaluate, and the output format.
pub(super) struct Request {
    pub(super) files: Files,
    pub(super) cluster: ClusterArgs,
    pub(super) ports: Vec<PortArg>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) engine: EngineChoice,
    pub(super) output: Output,
}

/// The verdicts on one port: a row for each source, a cell for each destination.
type Grid = Vec<Vec<Cell>>;

/// The verdict on one connection, for JSON.
#[derive(Debug, Serialize)]
struct Connection {
    from: String,
    to: String,
    port: String,
    protocol: Transport,
    allowed: bool,
    /// The verdict before the `--what-if` files; `None` without `--what-if`.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_before: Option<bool>,
}

pub(super) fn run(request: Request, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let Request { files, cluster, ports, addresses, engine, output } = request;
    let Files { before, after } = files;
    let input = input::read(&before, &cluster, terminal)?;
    input.report_all_findings(terminal);
    let mut is_incomplete = input::is_incomplete(&input.manifests);
    let mut objects = input.objects();
    let mut cluster = Cluster::new(engine.open());
    let ports = if ports.is_empty() { declared_ports(&objects) } else { ports };

    let (existing, added) = with_implicit_namespaces(objects.clone());
    for namespace in added {
        terminal.complain(&format_args!(
            "namespace {namespace} has no Namespace object: its only label is assumed to be its name"
        ));
    }
    cluster.set(existing.clone())?;
    cluster.findings().iter().for_each(|finding| terminal.complain(finding));
    let mut peers = peers(&cluster, &addresses);
    if peers.is_empty() && after.is_none() {
        terminal
            .complain(&"no pod has an IP address, and no --address is given: the matrix is empty");
        return Ok(FAILED);
    }
    let Some(after) = after else {
        let verdicts = evaluate(&mut cluster, &peers, &ports)?;
        show(&peers, &ports, &verdicts, None, output, terminal)?;
        return Ok(if is_incomplete { FAILED } else { 0 });
    };

    let new = input::read_files(&after, terminal);
    input::report_findings(&new, terminal, |_| true);
    is_incomplete |= input::is_incomplete(&new);
    let new: Vec<Object> = new.objects.into_iter().map(|read| read.object).collect();
    let replaced: BTreeSet<_> = new.iter().map(Object::object_ref).collect();
    objects.retain(|object| !replaced.contains(&object.object_ref()));
    objects.extend(new);
    cluster.set(with_implicit_namespaces(objects).0)?;
    cluster.findings().iter().for_each(|finding| terminal.complain(finding));
    // The matrix contains the pods of before and after. A pod has no connections while it does not exist.
    let all: BTreeSet<PodOrIp> =
        peers.into_iter().chain(self::peers(&cluster, &addresses)).collect();
    peers = all.into_iter().collect();
    let verdicts = evaluate(&mut cluster, &peers, &ports)?;
    cluster.set(existing)?;
    let before = evaluate(&mut cluster, &peers, &ports)?;
    show(&peers, &ports, &verdicts, Some(&before), output, terminal)?;
    Ok(if is_incomplete { FAILED } else { 0 })
}

/// The ports that the pods declare; TCP 80 if there are none.
fn declared_ports(objects: &[Object]) -> Vec<PortArg> {
    let mut declared = BTreeSet::new();
    for object in objects {
        if let Object::Pod(pod) = object {
            declared.extend(pod.ports.iter().map(|port| (port.number, port.transport)));
        }
    }
    if declared.is_empty() {
        declared.insert((80, Transport::Tcp));
    }
    declared
        .into_iter()
        .map(|(number, transport)| PortArg { port: PortChoice::Number(number), transport })
        .collect()
}

/// The pods that have an address, by name, then the addresses given with `--address`.
fn peers(cluster: &Cluster, addresses: &[IpAddr]) -> Vec<PodOrIp> {
    let state = cluster.state();
    let holds = |pod: &&Pod| pod.host_network || state.held_addresses(pod).next().is_some();
    let pods = state
        .pods()
        .filter(holds)
        .map(|pod| PodOrIp::Pod { name: pod.name.clone(), address: None });
    pods.chain(addresses.iter().map(|address| PodOrIp::Address(*address))).collect()
}

/// The verdicts for every port, source and destination, in this order.
fn evaluate(
    cluster: &mut Cluster,
    peers: &[PodOrIp],
    ports: &[PortArg],
) -> anyhow::Result<Vec<Grid>> {
    let mut verdicts = Vec::with_capacity(ports.len());
    for PortArg { port, transport } in ports {
        let mut rows = Vec::with_capacity(peers.len());
        for from in peers {
            let mut row = Vec::with_capacity(peers.len());
            for to in peers {
                let probe = Probe {
                    from: from.clone(),
                    to: to.clone(),
                    port: port.clone(),
                    transport: *transport,
                };
                let result = cluster.probe(&probe)?;
                if let Some(problem @ Problem::NoEgressMark) = result.problem {
                    return Err(problem.into());
                }
                row.push(match result.is_allowed {
                    _ if from == to => Cell::Blank,
                    true => Cell::Allowed,
                    false => Cell::Denied,
                });
            }
            rows.push(row);
        }
        verdicts.push(rows);
    }
    Ok(verdicts)
}

fn show(
    peers: &[PodOrIp],
    ports: &[PortArg],
    now: &[Grid],
    before: Option<&[Grid]>,
    output: Output,
    terminal: &mut Terminal<'_>,
) -> io::Result<()> {
    let mut connections = Vec::new();
    for (at_port, (port, rows)) in ports.iter().zip(now).enumerate() {
        let mut table = Matrix {
            corner: port.to_string(),
            columns: peers.iter().map(ToString::to_string).collect(),
            rows: Vec::new(),
        };
        for (at_source, (from, row)) in peers.iter().zip(rows).enumerate() {
            let mut cells = Vec::with_capacity(peers.len());
            for (at_destination, (to, verdict)) in peers.iter().zip(row).enumerate() {
                let before = before.and_then(|before| {
                    before.get(at_port)?.get(at_source)?.get(at_destination).copied()
                });
                cells.push(changed(before, *verdict));
                if *verdict != Cell::Blank {
                    connections.push(Connection {
                        from: from.to_string(),
                        to: to.to_string(),
                        port: port.port.to_string(),
                        protocol: port.transport,
                        allowed: *verdict == Cell::Allowed,
                        allowed_before: before.map(|before| before == Cell::Allowed),
                    });
                }
            }
            table.rows.push((from.to_string(), cells));
        }
        if output == Output::Text {
            let style = if terminal.is_styled { Style::Styled } else { Style::Plain };
            writeln!(terminal.stdout, "{}", matrix::render(&table, style))?;
        }
    }
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut terminal.stdout, &connections)?;
            writeln!(terminal.stdout)
        }
        Output::Text if before.is_some() => list_changes(&connections, &mut terminal.stdout),
        Output::Text => Ok(()),
    }
}

/// The cell for a verdict, and for the verdict before with `--what-if`.
const fn changed(before: Option<Cell>, now: Cell) -> Cell {
    match (before, now) {
        (Some(Cell::Denied), Cell::Allowed) => Cell::Opened,
        (Some(Cell::Allowed), Cell::Denied) => Cell::Closed,
        (_, now) => now,
    }
}

fn list_changes(connections: &[Connection], out: &mut dyn Write) -> io::Result<()> {
    let mut n_changed = 0_usize;
    for Connection { from, to, port, protocol, allowed, allowed_before } in connections {
        if allowed_before.is_some_and(|before| before != *allowed) {
            n_changed += 1;
            let (sign, verdict) = if *allowed { ('+', "allowed") } else { ('-', "denied") };
            writeln!(out, "{sign} {from} -> {to} {port}/{protocol} would be {verdict}")?;
        }
    }
    writeln!(out, "{n_changed} of {} connections would change", connections.len())
}
