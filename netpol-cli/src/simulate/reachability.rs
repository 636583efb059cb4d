//! `simulate -f`: the matrix of allowed connections, and the changes that `--what-if` files would make.

use std::collections::BTreeSet;

use netpol_policy::model::{ContainerPort, Object, Pod, PortName, Transport};
use netpol_policy::simulate::{
    Answer, OfflineCluster, PodOrIp, PortChoice, Reachability, with_implicit_namespaces,
};
use netpol_terminal::{FAILED, FOUND, Terminal};

use super::args::{Files, PortArg, SimulateArgs};
use super::matrix::Style;
use super::output::{self, Form, Names, WhatIf};
use super::rows::{Filter, Row, rows};
use super::table::{Cell, Table};
use crate::input::{self, PodNetworkArgs};

/// Draws the matrix that the arguments ask for.
pub(super) fn run(args: SimulateArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let SimulateArgs {
        files,
        cluster: access,
        matrix: _,
        ports,
        addresses,
        namespaces,
        selector,
        pod_networks: PodNetworkArgs { pod_networks },
        output,
        fail_on,
        cases: _,
        engine,
    } = args;
    let filter = Filter { namespaces, selector };
    let Files { before, after } = files;
    let input = input::read(&before, &access, terminal)?;
    input.report_all_findings(terminal);
    let mut is_incomplete = input::is_incomplete(&input.manifests);
    let objects = input.objects();
    for namespace in with_implicit_namespaces(objects.clone()).1 {
        terminal.complain(&format_args!(
            "namespace {namespace} has no Namespace object: its only label is assumed to be its name"
        ));
    }
    let mut now = OfflineCluster::new(engine.open(), pod_networks.clone());
    now.set(objects)?;
    now.findings().iter().for_each(|finding| terminal.complain(finding));
    let mut peers: BTreeSet<PodOrIp> = now.pods().into_iter().collect();
    let mut before = None;
    if let Some(after) = after {
        let new = input::read_files(&after, terminal);
        input::report_findings(&new, terminal, |_| true);
        is_incomplete |= input::is_incomplete(&new);
        let new: Vec<Object> = new.objects.into_iter().map(|read| read.object).collect();
        let mut changed = OfflineCluster::new(engine.open(), pod_networks);
        changed.set(input.objects_with(new))?;
        changed.findings().iter().for_each(|finding| terminal.complain(finding));
        // The matrix contains the pods of before and after. A pod has no connections while it does not exist.
        peers.extend(changed.pods());
        before = Some(std::mem::replace(&mut now, changed));
    } else if peers.is_empty() && addresses.is_empty() {
        terminal.complain(
            &"there is no pod and no workload with a pod, and no --address is given: the matrix is empty",
        );
        return Ok(FAILED);
    }
    let states = [Some(now.state()), before.as_ref().map(OfflineCluster::state)];
    peers.retain(|peer| filter.includes(peer, &states));
    let mut peers: Vec<PodOrIp> = peers.into_iter().collect();
    peers.extend(addresses.into_iter().map(PodOrIp::Address));

    let mut matrix = Matrix::new(now, before, &peers);
    let ports = matrix.ports(ports);
    let style = if terminal.is_styled { Style::Styled } else { Style::Plain };
    let is_what_if = if matrix.before.is_some() { WhatIf::Yes } else { WhatIf::No };
    let rows = std::mem::take(&mut matrix.rows);
    let names = Names { peers: &peers, rows: &rows };
    let tables = ports.iter().map(|port| matrix.table(port, &names));
    let form = Form { output, style, is_what_if };
    let changes = output::write(form, &names, tables, &mut terminal.stdout)?;
    if is_incomplete {
        return Ok(FAILED);
    }
    let is_met = fail_on.is_some_and(|fail_on| fail_on.is_met(changes));
    Ok(if is_met { FOUND } else { 0 })
}

/// A port, and the rows that are its destinations.
struct Destinations {
    port: PortArg,
    columns: Vec<usize>,
}

/// The clusters and the rows of the matrix.
struct Matrix {
    now: Reachability,
    before: Option<Reachability>,
    rows: Vec<Row>,
    peers: Vec<PodOrIp>,
}

impl Matrix {
    fn new(now: OfflineCluster, before: Option<OfflineCluster>, peers: &[PodOrIp]) -> Self {
        let now = Reachability::new(now, peers);
        let before = before.map(|before| Reachability::new(before, peers));
        let clusters: Vec<&Reachability> = [&now].into_iter().chain(&before).collect();
        let rows = rows(peers, &clusters);
        Self { now, before, rows, peers: peers.to_vec() }
    }

    /// The ports to evaluate, each with its destinations: all for a port that the user has chosen, else the pods that declare
    /// the port, and every address. TCP 80 of every pod if no pod declares a port.
    fn ports(&self, chosen: Vec<PortArg>) -> Vec<Destinations> {
        let every = |port| Destinations { port, columns: (0..self.rows.len()).collect() };
        if !chosen.is_empty() {
            return chosen.into_iter().map(every).collect();
        }
        let declared: Vec<BTreeSet<(u16, Transport)>> = self
            .rows
            .iter()
            .map(|row| {
                let first = row.members.first().and_then(|member| self.peers.get(*member));
                let pods = first.into_iter().flat_map(|peer| self.pods(peer));
                let ports = pods.flat_map(|pod| pod.ports.iter());
                ports.map(|port: &ContainerPort| (port.number, port.transport)).collect()
            })
            .collect();
        let all: BTreeSet<(u16, Transport)> = declared.iter().flatten().copied().collect();
        let port = |number, transport| PortArg { port: PortChoice::Number(number), transport };
        if all.is_empty() {
            return vec![every(port(80, Transport::Tcp))];
        }
        let destinations = all.into_iter().map(|(number, transport)| {
            let is_destination = |(row, ports): (&Row, &BTreeSet<_>)| {
                let mut members = row.members.iter().filter_map(|member| self.peers.get(*member));
                members.any(|peer| matches!(peer, PodOrIp::Address(_)))
                    || ports.contains(&(number, transport))
            };
            let of_port = self.rows.iter().zip(&declared).map(is_destination);
            let columns = of_port.enumerate().filter(|(_, is_destination)| *is_destination);
            let columns = columns.map(|(column, _)| column).collect();
            Destinations { port: port(number, transport), columns }
        });
        destinations.collect()
    }

    /// The pod of a peer in each cluster.
    fn pods(&self, peer: &PodOrIp) -> impl Iterator<Item = &Pod> {
        let name = match peer {
            PodOrIp::Pod { name, address: _ } => Some(name.clone()),
            PodOrIp::Address(_)
            | PodOrIp::Block(_)
            | PodOrIp::External
            | PodOrIp::Node(_)
            | PodOrIp::Service(_) => None,
        };
        let clusters = [Some(&self.now), self.before.as_ref()].into_iter().flatten();
        clusters.filter_map(move |cluster| cluster.state().pod(name.as_ref()?))
    }

    /// The verdicts on one port.
    fn table(&mut self, destinations: &Destinations, names: &Names<'_>) -> anyhow::Result<Table> {
        let Destinations { port: PortArg { port, transport }, columns } = destinations;
        let mut cells = Vec::with_capacity(names.rows.len());
        for from in names.rows {
            let mut row = Vec::with_capacity(columns.len());
            for to in columns.iter().filter_map(|column| names.rows.get(*column)) {
                // Two different pods, also of one row.
                let pair = from.members.first().and_then(|from| {
                    let mut members = to.members.iter();
                    Some((*from, *members.find(|to| *to != from)?))
                });
                row.push(match pair {
                    None => Cell::Blank,
                    Some((from, to)) => {
                        let peer = names.peers.get(to);
                        let before = self.before.as_mut();
                        let before = before
                            .map(|cluster| answer(cluster, from, (to, peer), port, *transport))
                            .transpose()?;
                        let now = answer(&mut self.now, from, (to, peer), port, *transport)?;
                        Cell::new(before, now)
                    }
                });
            }
            cells.push(row);
        }
        let columns = columns.clone();
        Ok(Table { port: port.to_string(), transport: *transport, columns, cells })
    }
}

/// The answer of one cluster. A port name is that of the destination.
fn answer(
    cluster: &mut Reachability,
    from: usize,
    (to, peer): (usize, Option<&PodOrIp>),
    port: &PortChoice,
    transport: Transport,
) -> anyhow::Result<Answer> {
    let number = match port {
        PortChoice::Number(number) => Some(*number),
        PortChoice::Name(name) => match peer {
            Some(PodOrIp::Pod { name: pod, address: _ }) => {
                let pod = cluster.state().pod(pod);
                let name = PortName::parse(name);
                pod.zip(name).and_then(|(pod, name)| pod.named_ports(&name, transport).next())
            }
            Some(
                PodOrIp::Address(_)
                | PodOrIp::Block(_)
                | PodOrIp::External
                | PodOrIp::Node(_)
                | PodOrIp::Service(_),
            )
            | None => None,
        },
    };
    let Some(number) = number else { return Ok(Answer::Denied) };
    Ok(cluster.answer(from, to, number, transport)?)
}
