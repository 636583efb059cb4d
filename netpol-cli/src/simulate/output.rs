//! Writes the tables of a matrix in one of the output formats.
//!
//! In: tables, one after the other. Out: text. Must not: hold more than one table in memory, except for graphs.

use std::borrow::Cow;
use std::io::{self, Write};

use netpol_policy::model::Transport;
use netpol_policy::simulate::{Answer, PodOrIp};
use serde::Serialize;

use super::args::MatrixOutput;
use super::array::Array;
use super::graph::{Graph, Nodes};
use super::matrix::{self, Style};
use super::rows::Row;
use super::table::{Cell, Table, verdict, word};

/// The largest number of destinations of a drawn table. A wider one is written as a list.
const MAX_COLUMNS: usize = 40;

/// The names in the tables.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) peers: &'a [PodOrIp],
    /// The names of the peers.
    pub(super) of_peers: &'a [String],
    pub(super) rows: &'a [Row],
}

impl<'a> Names<'a> {
    /// The name of a peer, by its position.
    pub(super) fn peer(&self, at: usize) -> &'a str {
        self.of_peers.get(at).map_or("", String::as_str)
    }

    /// The name of a row, by its position.
    pub(super) fn row(&self, at: usize) -> &'a str {
        self.rows.get(at).map_or("", |row| &row.name)
    }
}

/// How the output is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) output: MatrixOutput,
    pub(super) style: Style,
    /// The number of columns of the terminal, if it is one.
    pub(super) width: Option<usize>,
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
) -> anyhow::Result<()> {
    let mut graph = Graph::default();
    let mut array = Array::default();
    let mut csv = Csv::new(names);
    if form.output == MatrixOutput::Csv {
        let before = if form.is_what_if == WhatIf::Yes { ",before" } else { "" };
        writeln!(out, "from,to,port,protocol,verdict{before}")?;
    }
    for table in tables {
        let table = table?;
        if matches!(form.output, MatrixOutput::Dot | MatrixOutput::Mermaid) {
            add_to_graph(&table, &mut graph);
        }
        match form.output {
            MatrixOutput::Text => match drawn(&table, names.rows, form) {
                Some(drawing) => writeln!(out, "{drawing}")?,
                None => write_list(&table, names.rows, out)?,
            },
            MatrixOutput::Md => write_markdown(&table, names.rows, out)?,
            MatrixOutput::Json => {
                each_connection(&table, names.rows, |from, to, cell| {
                    let (from, to) = (names.peer(from), names.peer(to));
                    let connection = connection(&table, form, from, to, cell);
                    connection.map_or(Ok(()), |connection| array.push(&connection, out))
                })?;
            }
            MatrixOutput::Csv => csv.write(&table, names.rows, form.is_what_if, out)?,
            MatrixOutput::Dot | MatrixOutput::Mermaid | MatrixOutput::Html => {}
        }
    }
    match form.output {
        MatrixOutput::Json => array.finish(out)?,
        MatrixOutput::Dot => graph.write_dot(names.rows, Nodes::All, out)?,
        MatrixOutput::Mermaid => graph.write_mermaid(names.rows, Nodes::All, out)?,
        MatrixOutput::Text | MatrixOutput::Md | MatrixOutput::Csv | MatrixOutput::Html => {}
    }
    Ok(())
}

/// A table, unless it is too wide.
fn drawn(table: &Table, rows: &[Row], form: Form) -> Option<String> {
    if table.columns.len() > MAX_COLUMNS {
        return None;
    }
    let drawing = matrix::render(table, rows, form.style);
    let fits = form.width.is_none_or(|width| matrix::width(&drawing) <= width);
    fits.then_some(drawing)
}

fn add_to_graph(table: &Table, graph: &mut Graph) {
    let Table { port, transport, columns, cells } = table;
    for (from, cells) in cells.iter().enumerate() {
        for (column, cell) in columns.iter().zip(cells) {
            let change = cell.change();
            let label = match cell.answer() {
                Some(Answer::Denied) if change.is_none() => continue,
                Some(Answer::Denied | Answer::Allowed) => format!("{port}/{transport}"),
                Some(answer) => format!("{port}/{transport} {}", word(answer)),
                None => continue,
            };
            graph.add((from, *column), label, change);
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
        write!(out, " {} |", in_markdown(&column.name))?;
    }
    writeln!(out, "\n|---|{}", "---|".repeat(columns.len()))?;
    for (row, cells) in rows.iter().zip(cells) {
        write!(out, "| {} |", in_markdown(&row.name))?;
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

/// What the lines of CSV are made of: there can be many millions of them.
struct Csv<'a> {
    /// The names of the peers, as fields.
    peers: Vec<Cow<'a, str>>,
    line: String,
}

impl<'a> Csv<'a> {
    fn new(names: &Names<'a>) -> Self {
        Self {
            peers: names.of_peers.iter().map(|name| in_csv(name)).collect(),
            line: String::new(),
        }
    }

    /// Writes a line for each connection of a table.
    fn write(
        &mut self,
        table: &Table,
        rows: &[Row],
        is_what_if: WhatIf,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let Self { peers, line } = self;
        let peer = |at: usize| peers.get(at).map_or("", |name| &**name);
        let service = format!("{},{}", table.port, table.transport);
        each_connection(table, rows, |from, to, cell| {
            let (Some(now), Some(before)) = (cell.answer(), cell.before()) else { return Ok(()) };
            let before = (is_what_if == WhatIf::Yes).then(|| verdict(before));
            let fields = [peer(from), peer(to), &service, verdict(now)].into_iter().chain(before);
            line.clear();
            for field in fields {
                line.push_str(field);
                line.push(',');
            }
            line.pop();
            line.push('\n');
            out.write_all(line.as_bytes())
        })
    }
}

/// A name as a field of CSV (RFC 4180).
pub(super) fn in_csv(name: &str) -> Cow<'_, str> {
    if name.contains([',', '"', '\n', '\r']) {
        Cow::Owned(format!("\"{}\"", name.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(name)
    }
}

/// A name in a cell of a Markdown table.
pub(super) fn in_markdown(name: &str) -> String {
    let escaped = |letter: char| match letter {
        '|' | '\\' | '<' | '[' | '*' | '_' | '`' | '&' => format!("\\{letter}"),
        '\n' => " ".to_owned(),
        other => other.to_string(),
    };
    name.chars().map(escaped).collect()
}
