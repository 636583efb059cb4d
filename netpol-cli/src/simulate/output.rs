//! Writes the tables of a matrix in one of the output formats.
//!
//! In: tables, one after the other. Out: text. Must not: hold more than one table in memory, except for graphs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use netpol_policy::model::Transport;
use netpol_policy::simulate::{Answer, PodOrIp};
use serde::Serialize;

use super::args::MatrixOutput;
use super::matrix::{self, Style};
use super::rows::Row;
use super::table::{Cell, Change, Table, verdict, word};

/// The largest number of columns of a drawn table. A wider one is written as a list.
const MAX_COLUMNS: usize = 40;

/// The names in the tables.
pub(super) struct Names<'a> {
    pub(super) peers: &'a [PodOrIp],
    pub(super) rows: &'a [Row],
}

/// Numbers of connections, where each pod of a row counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) opened: usize,
    pub(super) closed: usize,
    all: usize,
}

/// How the output is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) output: MatrixOutput,
    pub(super) style: Style,
    /// Whether there are verdicts before and after.
    pub(super) is_what_if: WhatIf,
}

/// Whether the tables have verdicts before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhatIf {
    No,
    Yes,
}

/// The verdict on one connection, for JSON.
#[derive(Debug, Serialize)]
struct Connection<'a> {
    from: &'a str,
    to: &'a str,
    port: &'a str,
    protocol: Transport,
    allowed: bool,
    /// `ipv4`, `ipv6` or `depends`, if the verdict is neither yes nor no.
    #[serde(skip_serializing_if = "Option::is_none")]
    only: Option<&'static str>,
    /// The verdict before the `--what-if` files; `None` without `--what-if`.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_before: Option<bool>,
}

/// Writes all tables.
pub(super) fn write(
    form: Form,
    names: &Names<'_>,
    tables: impl Iterator<Item = anyhow::Result<Table>>,
    out: &mut dyn Write,
) -> anyhow::Result<Changes> {
    let mut changes = Changes::default();
    let mut graph = Graph::default();
    let mut lines = Vec::new();
    let peer_names: Vec<String> = match form.output {
        MatrixOutput::Json | MatrixOutput::Csv => {
            names.peers.iter().map(ToString::to_string).collect()
        }
        MatrixOutput::Text | MatrixOutput::Md | MatrixOutput::Dot | MatrixOutput::Mermaid => {
            Vec::new()
        }
    };
    let mut array = Array::default();
    if form.output == MatrixOutput::Csv {
        let before = if form.is_what_if == WhatIf::Yes { ",before" } else { "" };
        writeln!(out, "from,to,port,protocol,verdict{before}")?;
    }
    for table in tables {
        let table = table?;
        each_pair(&table, names.rows, |pair| {
            changes.add(&pair);
            if form.output == MatrixOutput::Text {
                lines.extend(pair.change_line(&table));
            }
            if matches!(form.output, MatrixOutput::Dot | MatrixOutput::Mermaid) {
                graph.add(&pair, &table);
            }
        });
        match form.output {
            MatrixOutput::Text if table.columns.len() <= MAX_COLUMNS => {
                writeln!(out, "{}", matrix::render(&table, names.rows, form.style))?;
            }
            MatrixOutput::Text => write_list(&table, names.rows, out)?,
            MatrixOutput::Md => write_markdown(&table, names.rows, out)?,
            MatrixOutput::Json => {
                each_connection(&table, names.rows, |from, to, cell| {
                    let name = |at: usize| peer_names.get(at).map_or("", String::as_str);
                    let connection = connection(&table, form, name(from), name(to), cell);
                    connection.map_or(Ok(()), |connection| array.push(&connection, out))
                })?;
            }
            MatrixOutput::Csv => {
                each_connection(&table, names.rows, |from, to, cell| {
                    let name = |at: usize| peer_names.get(at).map_or("", String::as_str);
                    let (Some(now), Some(before)) = (cell.answer(), cell.before()) else {
                        return Ok(());
                    };
                    let Table { port, transport, .. } = &table;
                    write!(out, "{},{},{port},{transport},{}", name(from), name(to), verdict(now))?;
                    if form.is_what_if == WhatIf::Yes {
                        write!(out, ",{}", verdict(before))?;
                    }
                    writeln!(out)
                })?;
            }
            MatrixOutput::Dot | MatrixOutput::Mermaid => {}
        }
    }
    match form.output {
        MatrixOutput::Json => array.finish(out)?,
        MatrixOutput::Dot => graph.write_dot(names.rows, out)?,
        MatrixOutput::Mermaid => graph.write_mermaid(names.rows, out)?,
        MatrixOutput::Text if form.is_what_if == WhatIf::Yes => {
            for line in lines {
                writeln!(out, "{line}")?;
            }
            let Changes { opened, closed, all } = changes;
            writeln!(out, "{} of {all} connections would change", opened + closed)?;
        }
        MatrixOutput::Text | MatrixOutput::Md | MatrixOutput::Csv => {}
    }
    Ok(changes)
}

/// A source row and a destination row with their cell.
struct Pair<'a> {
    from: (usize, &'a Row),
    to: (usize, &'a Row),
    cell: Cell,
}

impl Pair<'_> {
    fn n_connections(&self) -> usize {
        let n_from = self.from.1.members.len();
        let n_to = self.to.1.members.len();
        if self.from.0 == self.to.0 { n_from * n_from.saturating_sub(1) } else { n_from * n_to }
    }

    fn change_line(&self, table: &Table) -> Option<String> {
        let Table { port, transport, .. } = table;
        let sign = match self.cell.change()? {
            Change::Opens => '+',
            Change::Closes => '-',
        };
        let verdict = match self.cell.answer()? {
            Answer::Denied => "denied",
            Answer::Possible => "allowed for some addresses",
            Answer::OnlyIpv4 => "allowed with IPv4 only",
            Answer::OnlyIpv6 => "allowed with IPv6 only",
            Answer::Allowed => "allowed",
        };
        let (from, to) = (&self.from.1.name, &self.to.1.name);
        Some(format!("{sign} {from} -> {to} {port}/{transport} would be {verdict}"))
    }
}

impl Changes {
    fn add(&mut self, pair: &Pair<'_>) {
        let n = pair.n_connections();
        self.all += n;
        match pair.cell.change() {
            Some(Change::Opens) => self.opened += n,
            Some(Change::Closes) => self.closed += n,
            None => {}
        }
    }
}

fn each_pair<'a>(table: &Table, rows: &'a [Row], mut apply: impl FnMut(Pair<'a>)) {
    for (from, cells) in rows.iter().enumerate().zip(&table.cells) {
        for (column, cell) in table.columns.iter().zip(cells) {
            if let (Some(to), false) = (rows.get(*column), *cell == Cell::Blank) {
                apply(Pair { from, to: (*column, to), cell: *cell });
            }
        }
    }
}

/// Calls `apply` with the positions of both peers of each connection.
fn each_connection(
    table: &Table,
    rows: &[Row],
    mut apply: impl FnMut(usize, usize, Cell) -> io::Result<()>,
) -> io::Result<()> {
    for (row, cells) in rows.iter().zip(&table.cells) {
        for from in &row.members {
            for (column, cell) in table.columns.iter().zip(cells) {
                let Some(column) = rows.get(*column) else { continue };
                for to in column.members.iter().filter(|to| *to != from) {
                    apply(*from, *to, *cell)?;
                }
            }
        }
    }
    Ok(())
}

fn connection<'a>(
    table: &'a Table,
    form: Form,
    from: &'a str,
    to: &'a str,
    cell: Cell,
) -> Option<Connection<'a>> {
    let (now, before) = (cell.answer()?, cell.before()?);
    let is_whole = matches!(now, Answer::Allowed | Answer::Denied);
    Some(Connection {
        from,
        to,
        port: &table.port,
        protocol: table.transport,
        allowed: now == Answer::Allowed,
        only: (!is_whole).then(|| verdict(now)),
        allowed_before: (form.is_what_if == WhatIf::Yes).then_some(before == Answer::Allowed),
    })
}

/// A JSON array that is written item by item, as [`serde_json::to_writer_pretty`] writes it.
#[derive(Default)]
struct Array {
    n_items: usize,
}

impl Array {
    fn push(&mut self, item: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(if self.n_items == 0 { b"[\n" } else { b",\n" })?;
        self.n_items += 1;
        let text = serde_json::to_string_pretty(item)?;
        for (number, line) in text.lines().enumerate() {
            write!(out, "{}  {line}", if number == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }

    fn finish(self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(if self.n_items == 0 { b"[]\n" } else { b"\n]\n" })
    }
}

/// For each destination the sources that are allowed, or those that are not if they are fewer.
fn write_list(table: &Table, rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    let Table { port, transport, columns, cells } = table;
    for (at, column) in columns.iter().enumerate() {
        let Some(destination) = rows.get(*column) else { continue };
        let sources = |wanted: Answer| {
            let answers = rows.iter().zip(cells).map(|(row, cells)| (row, cells.get(at)));
            let found = answers
                .filter(move |(_, cell)| cell.and_then(|cell| cell.answer()) == Some(wanted));
            found.map(|(row, _)| row.name.as_str())
        };
        let names = |wanted: Answer| sources(wanted).collect::<Vec<_>>().join(", ");
        let n_allowed = sources(Answer::Allowed).count();
        let n_denied = sources(Answer::Denied).count();
        let others = [Answer::Possible, Answer::OnlyIpv4, Answer::OnlyIpv6]
            .map(|answer| (word(answer), names(answer)));
        let is_plain = others.iter().all(|(_, names)| names.is_empty());
        write!(out, "{} {port}/{transport} <- ", destination.name)?;
        if n_allowed == 0 {
            write!(out, "nobody")?;
        } else if n_denied == 0 && is_plain {
            write!(out, "everybody")?;
        } else if n_denied < n_allowed && is_plain {
            write!(out, "everybody but {}", names(Answer::Denied))?;
        } else {
            write!(out, "{}", names(Answer::Allowed))?;
        }
        for (answer, sources) in others.iter().filter(|(_, sources)| !sources.is_empty()) {
            write!(out, "; {answer}: {sources}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn write_markdown(table: &Table, rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    let Table { port, transport, columns, cells } = table;
    write!(out, "| {port}/{transport} |")?;
    for column in columns.iter().filter_map(|column| rows.get(*column)) {
        write!(out, " {} |", column.name)?;
    }
    writeln!(out, "\n|---|{}", "---|".repeat(columns.len()))?;
    for (row, cells) in rows.iter().zip(cells) {
        write!(out, "| {} |", row.name)?;
        for cell in cells {
            match cell {
                Cell::Blank => write!(out, " |")?,
                Cell::Is(answer) => write!(out, " {} |", word(*answer))?,
                Cell::Becomes(before, now) => {
                    write!(out, " **{} → {}** |", word(*before), word(*now))?;
                }
            }
        }
        writeln!(out)?;
    }
    writeln!(out)
}

/// The allowed connections between rows, with their ports.
#[derive(Default)]
struct Graph {
    edges: BTreeMap<(usize, usize), Edge>,
}

#[derive(Default)]
struct Edge {
    ports: BTreeSet<String>,
    change: Option<Change>,
}

impl Graph {
    fn add(&mut self, pair: &Pair<'_>, table: &Table) {
        let change = pair.cell.change();
        let port = match pair.cell.answer() {
            Some(Answer::Denied) if change.is_none() => return,
            Some(Answer::Denied | Answer::Allowed) => format!("{}/{}", table.port, table.transport),
            Some(answer) => format!("{}/{} {}", table.port, table.transport, word(answer)),
            None => return,
        };
        let edge = self.edges.entry((pair.from.0, pair.to.0)).or_default();
        edge.ports.insert(port);
        edge.change = edge.change.or(change);
    }

    fn write_dot(&self, rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "digraph netpol {{\n  rankdir=LR;\n  node [shape=box];")?;
        for (number, row) in rows.iter().enumerate() {
            writeln!(out, "  n{number} [label={:?}];", row.name)?;
        }
        for ((from, to), Edge { ports, change }) in &self.edges {
            let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
            let colour = match change {
                Some(Change::Opens) => ", color=green",
                Some(Change::Closes) => ", color=red, style=dashed",
                None => "",
            };
            writeln!(out, "  n{from} -> n{to} [label={:?}{colour}];", ports.join("\n"))?;
        }
        writeln!(out, "}}")
    }

    fn write_mermaid(&self, rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "flowchart LR")?;
        for (number, row) in rows.iter().enumerate() {
            writeln!(out, "  n{number}[\"{}\"]", row.name)?;
        }
        for ((from, to), Edge { ports, change }) in &self.edges {
            let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
            let arrow = match change {
                Some(Change::Opens) => "==>",
                Some(Change::Closes) => "-.->",
                None => "-->",
            };
            writeln!(out, "  n{from} {arrow}|\"{}\"| n{to}", ports.join("<br/>"))?;
        }
        Ok(())
    }
}
