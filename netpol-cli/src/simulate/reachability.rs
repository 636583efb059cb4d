//! The matrix of allowed connections, and what changes in it between two sets of objects.
//!
//! In: objects, and the choice of pods and ports. Out: tables and changes. Must not: format them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

use netpol_policy::model::{ContainerPort, Object, Pod, PortName, Transport};
use netpol_policy::simulate::{
    Answer, JudgedConnection, OfflineCluster, PodOrIp, PortChoice, Probe, Reachability, Verdict,
    assumed_namespaces,
};
use netpol_terminal::{FAILED, FOUND, Terminal};

use super::args::{FailOn, Files, MatrixArgs, MatrixOutput, PortArg, SimulateArgs};
use super::changes::{ChangedPorts, Changes, Totals};
use super::html_output;
use super::matrix::Style;
use super::output::{self, Form, Names, WhatIf};
use super::rows::{Filter, Row, rows};
use super::table::{Cell, Table};
use crate::input::{self, PodNetworkArgs};
use crate::progress::{Progress, WhileWriting};

/// Draws the matrix that the arguments ask for, or what `--what-if` changes in it.
pub(super) fn run(args: SimulateArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let SimulateArgs { files, cluster: access, matrix: is_matrix, choice, fail_on, cases: _ } =
        args;
    let Files { before, after } = files;
    let input = input::read(&before, &access, terminal)?;
    input.report_all_findings(terminal);
    let is_incomplete = input::is_incomplete(&input.manifests);
    let mut assumed = BTreeSet::new();
    let now = cluster(input.objects(), &choice, &mut assumed, terminal)?;
    let Some(after) = after else {
        if now.pods().is_empty() && choice.addresses.is_empty() {
            terminal.complain(
                &"there is no pod and no workload with a pod, and no --address is given: the matrix is empty",
            );
            return Ok(FAILED);
        }
        let (mut matrix, form) = prepare(now, None, choice, terminal);
        matrix.write(form, &mut result(terminal))?;
        return Ok(if is_incomplete { FAILED } else { 0 });
    };
    let new = input::read_files(&after, terminal);
    input::report_findings(&new, terminal, |_| true);
    let is_incomplete = is_incomplete || input::is_incomplete(&new);
    let new: Vec<Object> = new.objects.into_iter().map(|read| read.object).collect();
    let changed = cluster(input.objects_with(new), &choice, &mut assumed, terminal)?;
    let (mut matrix, form) = prepare(changed, Some(now), choice, terminal);
    let totals = if is_matrix {
        matrix.write(form, &mut result(terminal))?
    } else {
        matrix.write_changes(form, &mut result(terminal))?
    };
    Ok(if is_incomplete { FAILED } else { exit_code(fail_on, totals) })
}

/// Where the connections go while they are evaluated.
fn result<'a>(terminal: &'a mut Terminal<'_>) -> WhileWriting<'a> {
    WhileWriting::start("evaluating connections", terminal)
}

/// Writes the connections that differ between two sets of objects.
pub(crate) fn compare(
    before: Vec<Object>,
    now: Vec<Object>,
    choice: MatrixArgs,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<Totals> {
    let mut assumed = BTreeSet::new();
    let before = cluster(before, &choice, &mut assumed, terminal)?;
    let now = cluster(now, &choice, &mut assumed, terminal)?;
    let (mut matrix, form) = prepare(now, Some(before), choice, terminal);
    matrix.write_changes(form, &mut result(terminal))
}

/// 1 if the changes have the effect that the user asked about.
pub(crate) fn exit_code(fail_on: Option<FailOn>, totals: Totals) -> u8 {
    let is_met = fail_on.is_some_and(|fail_on| fail_on.is_met(totals));
    if is_met { FOUND } else { 0 }
}

/// A cluster of these objects. Reports the namespaces that are assumed and not in `assumed` yet, and the rules over the
/// capacity of the maps.
fn cluster(
    objects: Vec<Object>,
    choice: &MatrixArgs,
    assumed: &mut BTreeSet<Arc<str>>,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<OfflineCluster> {
    for namespace in assumed_namespaces(&objects) {
        if assumed.insert(Arc::clone(&namespace)) {
            terminal.complain(&input::assumption(&namespace));
        }
    }
    let PodNetworkArgs { pod_networks, own_node_egress } = &choice.pod_networks;
    let mut cluster = OfflineCluster::new(choice.engine.open(), pod_networks.clone())
        .with_own_node_egress(*own_node_egress);
    let progress = Progress::start(input::evaluating(objects.len()));
    cluster.set(objects)?;
    let findings = cluster.findings();
    drop(progress);
    for finding in &findings {
        terminal.complain(finding);
    }
    Ok(cluster)
}

/// The matrix of the chosen pods and addresses, and its form.
fn prepare(
    now: OfflineCluster,
    before: Option<OfflineCluster>,
    choice: MatrixArgs,
    terminal: &Terminal<'_>,
) -> (Matrix, Form) {
    let MatrixArgs { ports, addresses, namespaces, selector, pod_networks: _, output, engine: _ } =
        choice;
    let filter = Filter { namespaces, selector };
    // The matrix contains the pods of before and after. A pod has no connections while it does not exist.
    let peers: BTreeSet<PodOrIp> = [Some(&now), before.as_ref()]
        .into_iter()
        .flatten()
        .flat_map(OfflineCluster::pods)
        .collect();
    let states = [Some(now.state()), before.as_ref().map(OfflineCluster::state)];
    let mut peers: Vec<PodOrIp> =
        peers.into_iter().filter(|peer| filter.includes(peer, &states)).collect();
    peers.extend(addresses.into_iter().map(PodOrIp::Address));
    let is_what_if = if before.is_some() { WhatIf::Yes } else { WhatIf::No };
    let style = if terminal.is_styled { Style::Styled } else { Style::Plain };
    (
        Matrix::new(now, Others { before, enforced: None }, peers, ports),
        Form { output, style, width: terminal.width, is_what_if },
    )
}

/// A port, and the rows that are its destinations.
struct Destinations {
    port: PortArg,
    columns: Vec<usize>,
}

/// Clusters to compare with.
#[derive(Default)]
pub(crate) struct Others {
    /// The cluster before a change.
    pub(crate) before: Option<OfflineCluster>,
    /// The cluster with all policies enforced, if some are in audit mode.
    pub(crate) enforced: Option<OfflineCluster>,
}

/// The verdicts of one cluster, or of one before and after a change.
pub(super) struct Clusters {
    pub(super) now: Reachability,
    pub(super) before: Option<Reachability>,
    /// With all policies enforced.
    pub(super) enforced: Option<Reachability>,
}

/// The clusters, the rows of the matrix, and the ports that the user has chosen.
pub(crate) struct Matrix {
    pub(super) clusters: Clusters,
    pub(super) rows: Vec<Row>,
    pub(super) peers: Vec<PodOrIp>,
    pub(super) peer_names: Vec<String>,
    chosen: Vec<PortArg>,
}

impl Matrix {
    /// The matrix of these pods and addresses. Without `chosen` ports, those that the pods declare.
    pub(crate) fn new(
        now: OfflineCluster,
        others: Others,
        peers: Vec<PodOrIp>,
        chosen: Vec<PortArg>,
    ) -> Self {
        let Others { before, enforced } = others;
        let now = Reachability::new(now, &peers);
        let [before, enforced] =
            [before, enforced].map(|other| Some(Reachability::new(other?, &peers)));
        let of_each: Vec<&Reachability> =
            [&now].into_iter().chain(&before).chain(&enforced).collect();
        let rows = rows(&peers, &of_each);
        let peer_names = peers.iter().map(ToString::to_string).collect();
        Self { clusters: Clusters { now, before, enforced }, rows, peers, peer_names, chosen }
    }

    /// Writes the whole matrix. Returns what changes in it, on every port.
    fn write(&mut self, form: Form, out: &mut dyn Write) -> anyhow::Result<Totals> {
        let ports = self.ports();
        let changes = self.changes()?;
        let Self { clusters, rows, peers, peer_names, chosen: _ } = self;
        let names = Names { peers, of_peers: peer_names, rows };
        let mut tables = ports.iter().map(|port| clusters.table(port, &names));
        if form.output == MatrixOutput::Html {
            let tables: Vec<Table> = tables.collect::<anyhow::Result<_>>()?;
            let explain =
                |pair: (usize, usize), port: &PortArg| clusters.reason(pair, port, &names);
            html_output::write_matrix(&names, &tables, &explain, out)?;
        } else {
            output::write(form, &names, &mut tables, out)?;
        }
        if let (MatrixOutput::Text, WhatIf::Yes) = (form.output, form.is_what_if) {
            changes.write(form.output, &names, &|_, _| String::new(), out)?;
        }
        Ok(changes.totals(rows))
    }

    /// Writes the connections that change.
    fn write_changes(&mut self, form: Form, out: &mut dyn Write) -> anyhow::Result<Totals> {
        let changes = self.changes()?;
        let Self { clusters, rows, peers, peer_names, chosen: _ } = self;
        let names = Names { peers, of_peers: peer_names, rows };
        let explain = |pair: (usize, usize), port: &PortArg| clusters.reason(pair, port, &names);
        changes.write(form.output, &names, &explain, out)?;
        Ok(changes.totals(rows))
    }

    /// The connections that change: on the chosen ports, else on every port.
    pub(super) fn changes(&mut self) -> anyhow::Result<Changes> {
        let Self { clusters, rows, peers, peer_names, chosen } = self;
        let mut changes = Changes::default();
        if clusters.before.is_none() {
            return Ok(changes);
        }
        let names = Names { peers, of_peers: peer_names, rows };
        for PortArg { port, transport } in &*chosen {
            let ports = match port {
                PortChoice::Number(number) => ChangedPorts::Range(*number, *number),
                PortChoice::Name(name) => ChangedPorts::Named(Arc::clone(name)),
            };
            each_pair(&names, |from, to| {
                let cell = clusters.cell(from, to, &names, port, *transport)?;
                changes.add((from.0, to.0), *transport, ports.clone(), cell);
                Ok(())
            })?;
        }
        if chosen.is_empty() {
            clusters.changes_on_every_port(&names, &mut changes)?;
        }
        Ok(changes)
    }

    /// The ports to evaluate, each with its destinations: all for a port that the user has chosen, else the pods that declare
    /// the port, and every address. TCP 80 of every pod if no pod declares a port.
    fn ports(&self) -> Vec<Destinations> {
        let every = |port| Destinations { port, columns: (0..self.rows.len()).collect() };
        if !self.chosen.is_empty() {
            return self.chosen.iter().cloned().map(every).collect();
        }
        let mut by_port: BTreeMap<(u16, Transport), Vec<usize>> = BTreeMap::new();
        let mut addresses = Vec::new();
        for (at, row) in self.rows.iter().enumerate() {
            let Some(peer) = row.members.first().and_then(|member| self.peers.get(*member)) else {
                continue;
            };
            if matches!(peer, PodOrIp::Address(_)) {
                addresses.push(at);
            }
            let ports = self.pods(peer).flat_map(|pod| pod.ports.iter());
            let ports: BTreeSet<(u16, Transport)> =
                ports.map(|port: &ContainerPort| (port.number, port.transport)).collect();
            for port in ports {
                by_port.entry(port).or_default().push(at);
            }
        }
        let port = |number, transport| PortArg { port: PortChoice::Number(number), transport };
        if by_port.is_empty() {
            return vec![every(port(80, Transport::Tcp))];
        }
        // Addresses come after the pods.
        let destinations = by_port.into_iter().map(|((number, transport), pods)| Destinations {
            port: port(number, transport),
            columns: pods.into_iter().chain(addresses.iter().copied()).collect(),
        });
        destinations.collect()
    }

    /// The pod of a peer in each cluster.
    pub(super) fn pods(&self, peer: &PodOrIp) -> impl Iterator<Item = &Pod> {
        let name = peer.pod_name().cloned();
        let Clusters { now, before, enforced: _ } = &self.clusters;
        let clusters = [Some(now), before.as_ref()].into_iter().flatten();
        clusters.filter_map(move |cluster| cluster.state().pod(name.as_ref()?))
    }
}

/// Whether the answers for connections from or to a peer can change at a port.
pub(super) type CanChange = fn(&Reachability, usize, u16, Transport) -> bool;

/// A row with its position.
type At<'a> = (usize, &'a Row);

/// Calls `apply` with each pair of rows.
fn each_pair<'a>(
    names: &Names<'a>,
    mut apply: impl FnMut(At<'a>, At<'a>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for from in names.rows.iter().enumerate() {
        for to in names.rows.iter().enumerate() {
            apply(from, to)?;
        }
    }
    Ok(())
}

impl Clusters {
    /// Adds the changes of each pair of rows. A pair is evaluated at the ports at which its verdict can change.
    fn changes_on_every_port(
        &mut self,
        names: &Names<'_>,
        changes: &mut Changes,
    ) -> anyhow::Result<()> {
        let of_each = || [Some(&self.now), self.before.as_ref()].into_iter().flatten();
        let mut all: BTreeMap<Transport, BTreeSet<u16>> =
            Transport::ALL.into_iter().map(|transport| (transport, [1].into())).collect();
        for (transport, starts) in of_each().flat_map(Reachability::port_starts) {
            all.entry(transport).or_default().extend(starts);
        }
        for (transport, starts) in all {
            for start in starts.into_iter().filter(|start| *start != 0) {
                let clusters: Vec<&Reachability> =
                    [Some(&self.now), self.before.as_ref()].into_iter().flatten().collect();
                let of_rows = |can_change: CanChange| -> Vec<bool> {
                    let rows = names.rows.iter().map(|row| {
                        let peers = row.members.first();
                        let mut of_each = peers.into_iter().flat_map(|peer| {
                            clusters.iter().map(|of| can_change(of, *peer, start, transport))
                        });
                        start == 1 || of_each.any(|can_change| can_change)
                    });
                    rows.collect()
                };
                let sources = of_rows(Reachability::changes_from);
                let destinations = of_rows(Reachability::changes_to);
                let is_of = |rows: &[bool], at: usize| rows.get(at).is_some_and(|is| *is);
                each_pair(names, |from, to| {
                    if is_of(&sources, from.0) || is_of(&destinations, to.0) {
                        let port = PortChoice::Number(start);
                        let cell = self.cell(from, to, names, &port, transport)?;
                        let ports = ChangedPorts::Range(start, u16::MAX);
                        changes.add((from.0, to.0), transport, ports, cell);
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// The verdicts on one port.
    fn table(&mut self, destinations: &Destinations, names: &Names<'_>) -> anyhow::Result<Table> {
        let Destinations { port: PortArg { port, transport }, columns } = destinations;
        let mut cells = Vec::with_capacity(names.rows.len());
        for from in names.rows.iter().enumerate() {
            let mut row = Vec::with_capacity(columns.len());
            for column in columns {
                let Some(to) = names.rows.get(*column) else { continue };
                row.push(self.cell(from, (*column, to), names, port, *transport)?);
            }
            cells.push(row);
        }
        let columns = columns.clone();
        Ok(Table { port: port.to_string(), transport: *transport, columns, cells })
    }

    /// The rules and isolations behind the verdict on a port between two rows, after the changes.
    fn reason(&self, (from, to): (usize, usize), port: &PortArg, names: &Names<'_>) -> String {
        let rows = names.rows.get(from).zip(names.rows.get(to));
        let Some((from, to)) = rows.and_then(|(from, to)| different(from, to)) else {
            return String::new();
        };
        let Some((from, to)) = names.peers.get(from).zip(names.peers.get(to)) else {
            return String::new();
        };
        let PortArg { port: choice, transport } = port.clone();
        let probe = Probe { from: from.clone(), to: to.clone(), port: choice, transport };
        let cluster = self.now.cluster();
        match cluster.judge(&probe) {
            Ok(judged) => {
                let mut lines: Vec<String> =
                    judged.iter().map(|judged| in_words(cluster, judged, to)).collect();
                lines.dedup();
                format!("{port} {}", lines.join("; "))
            }
            Err(problem) => format!("{port} {problem}"),
        }
    }

    /// The verdict on the connections between two rows.
    fn cell(
        &mut self,
        (_, from): At<'_>,
        (_, to): At<'_>,
        names: &Names<'_>,
        port: &PortChoice,
        transport: Transport,
    ) -> anyhow::Result<Cell> {
        let Some((from, to)) = different(from, to) else { return Ok(Cell::Blank) };
        let peer = names.peers.get(to);
        let before = self.before.as_mut();
        let before =
            before.map(|cluster| answer(cluster, from, (to, peer), port, transport)).transpose()?;
        let now = answer(&mut self.now, from, (to, peer), port, transport)?;
        Ok(Cell::new(before, now))
    }
}

/// The verdict on a connection, with the rules and isolations that decide it.
fn in_words(cluster: &OfflineCluster, judged: &JudgedConnection, to: &PodOrIp) -> String {
    let JudgedConnection { verdict, rules, isolating, .. } = judged;
    let rules = rules.iter().map(|rule| cluster.sentence(rule, to));
    let isolating = isolating.iter().map(|(policy, direction)| {
        format!("{policy} isolates for {direction}, and no rule allows it")
    });
    let reasons: Vec<String> = rules.chain(isolating).collect();
    let (verdict, default) = match verdict {
        Verdict::Allowed => ("allowed", "no policy isolates"),
        Verdict::Denied => ("denied", ""),
        Verdict::Possible => ("depends", "on an address that is not known"),
    };
    let reasons = if reasons.is_empty() { default.to_owned() } else { reasons.join("; ") };
    format!("{verdict}: {reasons}")
}

/// Two different pods of two rows, also if they are one row.
pub(super) fn different(from: &Row, to: &Row) -> Option<(usize, usize)> {
    let from = from.members.first()?;
    let to = to.members.iter().find(|to| *to != from)?;
    Some((*from, *to))
}

/// The answer of one cluster. A port name is that of the destination.
pub(super) fn answer(
    cluster: &mut Reachability,
    from: usize,
    (to, peer): (usize, Option<&PodOrIp>),
    port: &PortChoice,
    transport: Transport,
) -> anyhow::Result<Answer> {
    let number = match port {
        PortChoice::Number(number) => Some(*number),
        PortChoice::Name(name) => {
            let pod = peer.and_then(|peer| cluster.state().pod(peer.pod_name()?));
            let name = PortName::parse(name);
            pod.zip(name).and_then(|(pod, name)| pod.named_ports(&name, transport).next())
        }
    };
    let Some(number) = number else { return Ok(Answer::Denied) };
    Ok(cluster.answer(from, to, number, transport)?)
}
