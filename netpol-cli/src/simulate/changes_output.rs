//! Writes changes in one of the output formats.
//!
//! In: changes, and the names of rows and pods. Out: text. Must not: evaluate policies.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use netpol_policy::model::Transport;
use netpol_policy::simulate::Answer;
use serde::Serialize;

use super::args::MatrixOutput;
use super::array::Array;
use super::changes::{ChangedPorts, Changes, PortChange, Totals};
use super::graph::{Graph, Nodes};
use super::html_output::{self, Explain};
use super::output::{Names, in_csv, in_markdown};
use super::pairs::PairChange;
use super::table::{Change, verdict, word};

/// One end of many changes: every row, or these.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rows {
    Everybody,
    These(BTreeSet<usize>),
}

/// What changes for a pair of rows, in words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Effect {
    change: Change,
    ports: String,
    /// The verdicts before and after, unless they are plain yes and no.
    verdicts: Option<String>,
}

/// A change with the verdicts before and after, and its ports in words.
type EffectOnPorts = ((Change, Answer, Answer), String);

/// The change of a connection, for JSON.
#[derive(Debug, Serialize)]
struct Connection<'a> {
    from: &'a str,
    to: &'a str,
    /// A port, or the first and the last port of a range.
    port: String,
    protocol: Transport,
    effect: Change,
    before: &'static str,
    now: &'static str,
}

impl Changes {
    /// Writes all changes.
    pub(super) fn write(
        &self,
        output: MatrixOutput,
        names: &Names<'_>,
        explain: &Explain<'_>,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        match output {
            MatrixOutput::Text => self.write_text(names, out)?,
            MatrixOutput::Md => self.write_markdown(names, out)?,
            MatrixOutput::Json => {
                let mut array = Array::default();
                self.each_connection(names, |connection| array.push(&connection, out))?;
                array.finish(out)?;
            }
            MatrixOutput::Csv => {
                writeln!(out, "from,to,port,protocol,effect,before,now")?;
                self.each_connection(names, |connection| {
                    let Connection { from, to, port, protocol, effect, before, now } = connection;
                    let effect = effect.as_str();
                    let (from, to) = (in_csv(from), in_csv(to));
                    writeln!(out, "{from},{to},{port},{protocol},{effect},{before},{now}")
                })?;
            }
            MatrixOutput::Dot => {
                self.graph().write_dot(names.rows, Nodes::Connected, out)?;
            }
            MatrixOutput::Mermaid => {
                self.graph().write_mermaid(names.rows, Nodes::Connected, out)?;
            }
            MatrixOutput::Html => html_output::write_changes(self, names, explain, out)?,
        }
        Ok(())
    }

    /// One line for all pairs with the same change and the same sources, or the same destinations.
    fn write_text(&self, names: &Names<'_>, out: &mut dyn Write) -> io::Result<()> {
        for (effect, sources, destinations) in self.folded(names) {
            let Effect { change, ports, verdicts } = effect;
            let sign = if change == Change::Opens { '+' } else { '-' };
            let (from, to) = (sources.in_words(names), destinations.in_words(names));
            write!(out, "{sign} {from} -> {to}: {ports}")?;
            match verdicts {
                Some(verdicts) => writeln!(out, " ({verdicts})")?,
                None => writeln!(out)?,
            }
        }
        let Totals { n_opened, n_closed } = self.totals(names.rows);
        if (n_opened, n_closed) == (0, 0) {
            return writeln!(out, "no connection changes");
        }
        let pairs = |n: usize| if n == 1 { "1 pair".to_owned() } else { format!("{n} pairs") };
        writeln!(out, "opens: {} of pods, closes: {}", pairs(n_opened), pairs(n_closed))
    }

    fn write_markdown(&self, names: &Names<'_>, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "| | from | to | ports | before | now |\n|---|---|---|---|---|---|")?;
        for ((from, to), effects) in self.effects() {
            for ((change, before, now), ports) in effects {
                let name = |row: &usize| in_markdown(names.row(*row));
                let (before, now) = (word(before), word(now));
                let change = change.as_str();
                writeln!(
                    out,
                    "| {change} | {} | {} | {ports} | {before} | {now} |",
                    name(from),
                    name(to)
                )?;
            }
        }
        Ok(())
    }

    /// What changes for each pair, for each kind of change.
    pub(super) fn in_words(&self) -> Vec<PairChange> {
        let of_pairs = self.effects().flat_map(|(pair, effects)| {
            effects.into_iter().map(|((change, before, now), ports)| {
                let ports = match in_verdicts(before, now) {
                    Some(verdicts) => format!("{ports} ({verdicts})"),
                    None => ports,
                };
                PairChange { pair: *pair, change, ports }
            })
        });
        of_pairs.collect()
    }

    fn graph(&self) -> Graph {
        let mut graph = Graph::default();
        for PairChange { pair, change, ports } in self.in_words() {
            graph.add(pair, ports, Some(change));
        }
        graph
    }

    /// For each pair the ports of each effect, in words.
    fn effects(&self) -> impl Iterator<Item = (&(usize, usize), Vec<EffectOnPorts>)> {
        self.by_pair.iter().map(|(pair, changes)| {
            let mut by_effect: BTreeMap<_, Vec<&PortChange>> = BTreeMap::new();
            for change in changes {
                let Some((before, now)) = change.answers() else { continue };
                let Some(effect) = change.cell.change() else { continue };
                by_effect.entry((effect, before, now)).or_default().push(change);
            }
            let in_words = by_effect.into_iter().map(|(effect, of)| {
                let ports: Vec<_> = of.iter().map(|of| (of.transport, &of.ports)).collect();
                (effect, ports_in_words(&ports))
            });
            (pair, in_words.collect())
        })
    }

    /// The pairs with the same effect: those with the same sources together, then those with the same destinations.
    fn folded(&self, names: &Names<'_>) -> BTreeSet<(Effect, Rows, Rows)> {
        let mut sources: BTreeMap<(usize, Effect), BTreeSet<usize>> = BTreeMap::new();
        for ((from, to), effects) in self.effects() {
            for ((change, before, now), ports) in effects {
                let effect = Effect { change, ports, verdicts: in_verdicts(before, now) };
                sources.entry((*to, effect)).or_default().insert(*from);
            }
        }
        let mut destinations: BTreeMap<(Rows, Effect), BTreeSet<usize>> = BTreeMap::new();
        for ((to, effect), sources) in sources {
            let sources = Rows::of(sources, &[to].into(), names);
            destinations.entry((sources, effect)).or_default().insert(to);
        }
        let folded = destinations.into_iter().map(|((sources, effect), destinations)| {
            let none = BTreeSet::new();
            let others = match &sources {
                Rows::These(sources) => sources,
                Rows::Everybody => &none,
            };
            let destinations = Rows::of(destinations, others, names);
            (effect, sources, destinations)
        });
        folded.collect()
    }

    fn each_connection<'a>(
        &self,
        names: &Names<'a>,
        mut apply: impl FnMut(Connection<'a>) -> io::Result<()>,
    ) -> io::Result<()> {
        for ((from, to), changes) in &self.by_pair {
            let members = |row: &usize| names.rows.get(*row).map_or(&[][..], |row| &row.members);
            for (from, to) in members(from)
                .iter()
                .flat_map(|from| members(to).iter().map(move |to| (from, to)))
                .filter(|(from, to)| from != to)
            {
                for change in changes {
                    let Some((before, now)) = change.answers() else { continue };
                    let Some(effect) = change.cell.change() else { continue };
                    apply(Connection {
                        from: names.peer(*from),
                        to: names.peer(*to),
                        port: change.ports.to_string(),
                        protocol: change.transport,
                        effect,
                        before: verdict(before),
                        now: verdict(now),
                    })?;
                }
            }
        }
        Ok(())
    }
}

impl Rows {
    /// These rows; everybody if only `others` are missing.
    fn of(rows: BTreeSet<usize>, others: &BTreeSet<usize>, names: &Names<'_>) -> Self {
        let is_known = |at: usize| rows.contains(&at) || others.contains(&at);
        let is_many = rows.len() > 1 && (0..names.rows.len()).all(is_known);
        if is_many { Self::Everybody } else { Self::These(rows) }
    }

    fn in_words(&self, names: &Names<'_>) -> String {
        match self {
            Self::Everybody => "everybody".to_owned(),
            Self::These(rows) => {
                let rows: Vec<&str> = rows.iter().map(|row| names.row(*row)).collect();
                rows.join(", ")
            }
        }
    }
}

/// The verdicts before and after, unless a change says what they are.
fn in_verdicts(before: Answer, now: Answer) -> Option<String> {
    let is_plain = |answer| matches!(answer, Answer::Denied | Answer::Allowed);
    let is_both_plain = is_plain(before) && is_plain(now);
    (!is_both_plain).then(|| format!("{} -> {}", word(before), word(now)))
}

/// A port, or the first and the last port of a range, or the ports that are missing in the whole range of a protocol.
pub(crate) fn ports_in_words(ports: &[(Transport, &ChangedPorts)]) -> String {
    let mut ranges: BTreeMap<Transport, Vec<(u16, u16)>> = BTreeMap::new();
    let mut words = Vec::new();
    for (transport, ports) in ports {
        match ports {
            ChangedPorts::Named(name) => words.push(format!("{name}/{transport}")),
            ChangedPorts::Range(first, last) => {
                ranges.entry(*transport).or_default().push((*first, *last));
            }
        }
    }
    let n_ports = |ranges: &[(u16, u16)]| -> usize {
        ranges.iter().map(|(first, last)| usize::from(last.saturating_sub(*first)) + 1).sum()
    };
    let is_most = |ranges: &Vec<(u16, u16)>| n_ports(ranges) > usize::from(u16::MAX) / 2;
    let in_words = |transport: Transport, (first, last): (u16, u16)| match (first, last) {
        (1, u16::MAX) => format!("every {transport} port"),
        (first, last) => format!("{}/{transport}", ChangedPorts::Range(first, last)),
    };
    if Transport::ALL.iter().all(|transport| ranges.get(transport).is_some_and(is_most)) {
        let missing: Vec<String> = ranges
            .iter()
            .flat_map(|(transport, ranges)| {
                gaps(ranges).into_iter().map(|gap| in_words(*transport, gap))
            })
            .collect();
        words.push(match missing.as_slice() {
            [] => "every port".to_owned(),
            missing => format!("every port but {}", missing.join(", ")),
        });
        return words.join(", ");
    }
    for (transport, ranges) in &ranges {
        let missing = gaps(ranges);
        if is_most(ranges) && !missing.is_empty() {
            let missing: Vec<String> = missing
                .into_iter()
                .map(|(first, last)| ChangedPorts::Range(first, last).to_string())
                .collect();
            words.push(format!("every {transport} port but {}", missing.join(", ")));
        } else {
            words.extend(ranges.iter().map(|range| in_words(*transport, *range)));
        }
    }
    words.join(", ")
}

/// The ports between these ranges, which are sorted.
fn gaps(ranges: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut gaps = Vec::new();
    let mut next = Some(1);
    for (first, last) in ranges {
        if let Some(next) = next.filter(|next| next < first) {
            gaps.push((next, first - 1));
        }
        next = last.checked_add(1);
    }
    gaps.extend(next.map(|next| (next, u16::MAX)));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ranges: &[(Transport, u16, u16)], expected: &str) {
        let ranges: Vec<(Transport, ChangedPorts)> = ranges
            .iter()
            .map(|(transport, first, last)| (*transport, ChangedPorts::Range(*first, *last)))
            .collect();
        let ranges: Vec<_> = ranges.iter().map(|(transport, ports)| (*transport, ports)).collect();
        assert_eq!(ports_in_words(&ranges), expected);
    }

    #[test]
    fn most_ports_are_named_by_the_missing_ones() {
        use Transport::{Sctp, Tcp, Udp};
        check(&[(Tcp, 80, 80), (Tcp, 8000, 8999), (Udp, 53, 53)], "80/TCP, 8000-8999/TCP, 53/UDP");
        check(&[(Tcp, 1, u16::MAX)], "every TCP port");
        check(&[(Tcp, 1, 79), (Tcp, 81, u16::MAX)], "every TCP port but 80");
        let rest = [(Udp, 1, u16::MAX), (Sctp, 1, u16::MAX)];
        check(&[&[(Tcp, 1, u16::MAX)][..], &rest].concat(), "every port");
        check(
            &[&[(Tcp, 2, 79), (Tcp, 81, 65534)][..], &rest].concat(),
            "every port but 1/TCP, 80/TCP, 65535/TCP",
        );
    }
}
