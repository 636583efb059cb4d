//! A matrix or changes as an HTML page, each cell with the rules behind its verdict.
//!
//! In: tables or changes, and a function that explains a verdict. Out: HTML. Must not: evaluate policies.

use std::collections::BTreeMap;
use std::io::{self, Write};

use netpol_policy::model::Transport;
use netpol_policy::simulate::{Answer, PortChoice};

use super::args::PortArg;
use super::changes::{ChangedPorts, Changes};
use super::changes_output::ports_in_words;
use super::html::{Cell as HtmlCell, Kind, Page};
use super::output::Names;
use super::table::{Cell, Change, Table, word};

/// The largest number of ports in the text of a cell. The others are counted.
const MAX_PORTS: usize = 4;

/// Explains the verdict on a port between two rows, by their positions.
pub(super) type Explain<'a> = dyn Fn((usize, usize), &PortArg) -> String + 'a;

/// The verdicts of a pair of rows, by port.
type Verdicts<'a> = Vec<(&'a Table, Cell)>;

/// Writes the tables of all ports as one matrix.
pub(super) fn write_matrix(
    names: &Names<'_>,
    tables: &[Table],
    explain: &Explain<'_>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut by_column: BTreeMap<usize, Vec<(usize, &Table)>> = BTreeMap::new();
    for table in tables {
        for (at, column) in table.columns.iter().enumerate() {
            by_column.entry(*column).or_default().push((at, table));
        }
    }
    let columns = by_column.keys().map(|column| names.row(*column));
    let titles = ("Who reaches whom", "from \u{2193} to \u{2192}");
    let mut page = Page::begin(Kind::Matrix, titles, columns, out)?;
    for from in 0..names.rows.len() {
        let cells: Vec<(String, &'static str, usize, Option<String>)> = by_column
            .iter()
            .map(|(column, tables)| {
                let verdict = |(at, table): &(usize, &Table)| {
                    table.cells.get(from).and_then(|row| row.get(*at)).copied()
                };
                let verdicts: Verdicts<'_> = tables
                    .iter()
                    .filter_map(|table| Some((table.1, verdict(table)?)))
                    .filter(|(_, cell)| *cell != Cell::Blank)
                    .collect();
                if verdicts.is_empty() {
                    return (String::new(), "self", 0, None);
                }
                let reasons: Vec<String> = verdicts
                    .iter()
                    .map(|(table, _)| explain((from, *column), &table.port_arg()))
                    .collect();
                let (text, n_allowed) = text(&verdicts);
                (text, class(&verdicts), n_allowed, Some(reasons.join("\n")))
            })
            .collect();
        let cells = cells.iter().map(|(text, class, n_allowed, reason)| HtmlCell {
            class,
            text,
            order: Some(*n_allowed),
            reason: reason.clone(),
        });
        page.row((names.row(from), ""), cells)?;
    }
    page.finish()
}

/// The allowed ports, with the changes, and their number.
fn text(verdicts: &Verdicts<'_>) -> (String, usize) {
    let mut ports = Vec::new();
    let mut n_allowed = 0;
    for (Table { port, transport, .. }, cell) in verdicts {
        let protocol = match transport {
            Transport::Tcp => String::new(),
            Transport::Udp | Transport::Sctp => format!("/{transport}"),
        };
        let sign = match cell.change() {
            Some(Change::Opens) => "+",
            Some(Change::Closes) => "\u{2212}",
            None => "",
        };
        let partial = match cell.answer() {
            Some(Answer::Denied) | None if sign.is_empty() => continue,
            Some(Answer::Denied | Answer::Allowed) | None => String::new(),
            Some(answer) => format!(" {}", word(answer)),
        };
        n_allowed += usize::from(cell.answer() != Some(Answer::Denied));
        ports.push(format!("{sign}{port}{protocol}{partial}"));
    }
    let text = match ports.get(..MAX_PORTS) {
        _ if ports.is_empty() => "\u{2013}".to_owned(),
        Some(first) if ports.len() > MAX_PORTS => {
            format!("{} +{} more", first.join(", "), ports.len() - MAX_PORTS)
        }
        Some(_) | None => ports.join(", "),
    };
    (text, n_allowed)
}

fn class(verdicts: &Verdicts<'_>) -> &'static str {
    let has = |wanted| verdicts.iter().any(|(_, cell)| cell.change() == Some(wanted));
    let is = |wanted| verdicts.iter().all(|(_, cell)| cell.answer() == Some(wanted));
    match (has(Change::Opens), has(Change::Closes)) {
        (true, false) => "opens",
        (false, true) => "closes",
        (false, false) if is(Answer::Allowed) => "yes",
        (false, false) if is(Answer::Denied) => "no",
        (true, true) | (false, false) => "some",
    }
}

/// Writes a row for each pair of rows and kind of change.
pub(super) fn write_changes(
    changes: &Changes,
    names: &Names<'_>,
    explain: &Explain<'_>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let headings = ["from", "to", "ports", "before", "now"].into_iter();
    let mut page = Page::begin(Kind::Changes, ("What opens and closes", "effect"), headings, out)?;
    for (pair, of_pair) in &changes.by_pair {
        let mut by_effect: BTreeMap<_, Vec<(Transport, &ChangedPorts)>> = BTreeMap::new();
        for change in of_pair {
            let Some((before, now)) = change.answers() else { continue };
            let Some(effect) = change.cell.change() else { continue };
            let ports = by_effect.entry((effect, before, now)).or_default();
            ports.push((change.transport, &change.ports));
        }
        for ((effect, before, now), ports) in by_effect {
            let reason = ports.first().map(|(transport, ports)| {
                let port = match ports {
                    ChangedPorts::Range(first, _) => PortChoice::Number(*first),
                    ChangedPorts::Named(name) => PortChoice::from(&**name),
                };
                explain(*pair, &PortArg { port, transport: *transport })
            });
            let ports = ports_in_words(&ports);
            let texts = [names.row(pair.0), names.row(pair.1), &ports, word(before), word(now)];
            let cells = texts.into_iter().map(|text| HtmlCell {
                class: "",
                text,
                order: None,
                reason: reason.clone(),
            });
            page.row((effect.as_str(), effect.as_str()), cells)?;
        }
    }
    page.finish()
}
