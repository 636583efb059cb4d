//! `simulate -f`: who reaches whom, and what would change.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::IpAddr;

use serde::Serialize;

use netpol_policy::model::{Object, Pod, Transport};
use netpol_policy::simulate::{Cluster, End, PortChoice, Probe, Problem, with_implicit_namespaces};
use netpol_terminal::{FAILED, Output, Terminal};

use crate::args::{ClusterArgs, EngineChoice, Files, PortArg};
use crate::input;
use crate::matrix::{self, Cell, Look, Matrix};
use crate::simulate::start;

/// What to find out.
pub(super) struct Question {
    pub(super) files: Files,
    pub(super) cluster: ClusterArgs,
    pub(super) ports: Vec<PortArg>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) engine: EngineChoice,
    pub(super) output: Output,
}

/// The verdicts on one port, a row for each source.
type Grid = Vec<Vec<Cell>>;

/// One verdict, for programs.
#[derive(Debug, Serialize)]
struct Connection {
    from: String,
    to: String,
    port: String,
    protocol: Transport,
    allowed: bool,
    /// What it was before; only with `--what-if`.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_before: Option<bool>,
}

pub(super) fn run(question: Question, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let Question { files, cluster, ports, addresses, engine, output } = question;
    let Files { before, after } = files;
    let input = input::read(&before, &cluster, terminal)?;
    input.tell_findings(terminal);
    let mut is_incomplete = input::is_incomplete(&input.manifests);
    let mut objects = input.objects();
    let mut cluster = Cluster::new(start(engine));
    let ports = if ports.is_empty() { declared_ports(&objects) } else { ports };

    let (known, added) = with_implicit_namespaces(objects.clone());
    for namespace in added {
        let label = "it is taken as one with no label but its name";
        terminal.complain(&format_args!("namespace {namespace} is not among the objects: {label}"));
    }
    cluster.set(known.clone())?;
    cluster.findings().iter().for_each(|finding| terminal.complain(finding));
    let mut ends = ends(&cluster, &addresses);
    if ends.is_empty() && after.is_none() {
        terminal.complain(&"no pod has an address, and there is no --address to ask about");
        return Ok(FAILED);
    }
    let Some(after) = after else {
        let verdicts = ask(&mut cluster, &ends, &ports)?;
        show(&ends, &ports, &verdicts, None, output, terminal)?;
        return Ok(if is_incomplete { FAILED } else { 0 });
    };

    let new = input::read_files(&after, terminal);
    input::tell_findings(&new, terminal, |_| true);
    is_incomplete |= input::is_incomplete(&new);
    let new: Vec<Object> = new.objects.into_iter().map(|read| read.object).collect();
    let replaced: BTreeSet<_> = new.iter().map(Object::object_ref).collect();
    objects.retain(|object| !replaced.contains(&object.object_ref()));
    objects.extend(new);
    cluster.set(with_implicit_namespaces(objects).0)?;
    cluster.findings().iter().for_each(|finding| terminal.complain(finding));
    // A pod that is only there before or after reaches nobody while it is not.
    let all: BTreeSet<End> = ends.into_iter().chain(self::ends(&cluster, &addresses)).collect();
    ends = all.into_iter().collect();
    let verdicts = ask(&mut cluster, &ends, &ports)?;
    cluster.set(known)?;
    let before = ask(&mut cluster, &ends, &ports)?;
    show(&ends, &ports, &verdicts, Some(&before), output, terminal)?;
    Ok(if is_incomplete { FAILED } else { 0 })
}

/// The ports that the pods declare; 80 if there are none.
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

/// The pods that hold an address, by name, then the addresses that were asked for.
fn ends(cluster: &Cluster, addresses: &[IpAddr]) -> Vec<End> {
    let state = cluster.state();
    let holds = |pod: &&Pod| pod.host_network || state.held_addresses(pod).next().is_some();
    let pods =
        state.pods().filter(holds).map(|pod| End::Pod { name: pod.name.clone(), address: None });
    pods.chain(addresses.iter().map(|address| End::Address(*address))).collect()
}

/// The verdicts for every port, source and destination, in this order.
fn ask(cluster: &mut Cluster, ends: &[End], ports: &[PortArg]) -> anyhow::Result<Vec<Grid>> {
    let mut verdicts = Vec::with_capacity(ports.len());
    for PortArg { port, transport } in ports {
        let mut rows = Vec::with_capacity(ends.len());
        for from in ends {
            let mut row = Vec::with_capacity(ends.len());
            for to in ends {
                let probe = Probe {
                    from: from.clone(),
                    to: to.clone(),
                    port: port.clone(),
                    transport: *transport,
                };
                let answer = cluster.probe(&probe)?;
                if let Some(problem @ Problem::NoEgressMark) = answer.problem {
                    return Err(problem.into());
                }
                row.push(match answer.is_allowed {
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
    ends: &[End],
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
            columns: ends.iter().map(ToString::to_string).collect(),
            rows: Vec::new(),
        };
        for (at_source, (from, row)) in ends.iter().zip(rows).enumerate() {
            let mut cells = Vec::with_capacity(ends.len());
            for (at_destination, (to, verdict)) in ends.iter().zip(row).enumerate() {
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
            let look = if terminal.is_styled { Look::Styled } else { Look::Plain };
            writeln!(terminal.stdout, "{}", matrix::render(&table, look))?;
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

/// What to draw where the verdict was `before`, if it was asked for, and is `now`.
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
