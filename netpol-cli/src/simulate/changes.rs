//! The connections that differ between two sets of objects.
//!
//! In: cells with verdicts before and after. Out: the ports that open and close for each pair of rows, with adjacent ports as
//! one range. Must not: evaluate policies.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use netpol_policy::model::Transport;
use netpol_policy::simulate::Answer;

use super::rows::Row;
use super::table::{Cell, Change};

/// The changes of each pair of rows, by the positions of source and destination.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) by_pair: BTreeMap<(usize, usize), Vec<PortChange>>,
}

/// The change of the verdict on some ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortChange {
    pub(super) transport: Transport,
    pub(super) ports: ChangedPorts,
    /// The verdicts before and after.
    pub(super) cell: Cell,
}

/// Ports with the same verdicts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ChangedPorts {
    /// The first and the last port.
    Range(u16, u16),
    /// The port of this name.
    Named(Arc<str>),
}

/// Numbers of pairs of pods, where each pod of a row counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Pairs of which something is allowed that was denied.
    pub(crate) n_opened: usize,
    /// Pairs of which something is denied that was allowed.
    pub(crate) n_closed: usize,
}

impl Changes {
    /// Adds the verdicts of a pair on ports. A range goes on to the next port of the protocol that is added for this pair, or
    /// to the last port that there is, so ranges are added in their order.
    pub(super) fn add(
        &mut self,
        pair: (usize, usize),
        transport: Transport,
        ports: ChangedPorts,
        cell: Cell,
    ) {
        let is_change = cell.change().is_some();
        if !is_change && !self.by_pair.contains_key(&pair) {
            return;
        }
        let known = self.by_pair.entry(pair).or_default();
        if let (Some(last), ChangedPorts::Range(first, end)) = (known.last_mut(), &ports)
            && let PortChange {
                transport: of,
                ports: ChangedPorts::Range(begin, last_end),
                cell: was,
            } = last
            && *of == transport
            && (*begin..=*last_end).contains(first)
        {
            if *was == cell {
                *last_end = *end;
                return;
            }
            *last_end = first.saturating_sub(1);
        }
        if is_change {
            known.push(PortChange { transport, ports, cell });
        }
    }

    /// Numbers of pairs of pods with changes.
    pub(super) fn totals(&self, rows: &[Row]) -> Totals {
        let mut totals = Totals::default();
        for ((from, to), changes) in &self.by_pair {
            let n_of = |row: &usize| rows.get(*row).map_or(0, |row| row.members.len());
            let (n_from, n_to) = (n_of(from), n_of(to));
            let n = if from == to { n_from * n_from.saturating_sub(1) } else { n_from * n_to };
            let has = |wanted| changes.iter().any(|change| change.cell.change() == Some(wanted));
            totals.n_opened += if has(Change::Opens) { n } else { 0 };
            totals.n_closed += if has(Change::Closes) { n } else { 0 };
        }
        totals
    }
}

impl fmt::Display for ChangedPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(first, last) if first == last => write!(f, "{first}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl PortChange {
    /// The verdicts before and after.
    pub(super) fn answers(&self) -> Option<(Answer, Answer)> {
        self.cell.before().zip(self.cell.answer())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_ports_with_the_same_change_are_one_range() {
        use Answer::{Allowed, Denied};
        let opens = Cell::Becomes(Denied, Allowed);
        let mut changes = Changes::default();
        for (first, cell) in [
            (1, Cell::Is(Denied)),
            (80, opens),
            (81, opens),
            (443, Cell::Is(Denied)),
            (444, Cell::Is(Allowed)),
            (500, Cell::Becomes(Allowed, Denied)),
            (501, opens),
        ] {
            changes.add((0, 1), Transport::Tcp, ChangedPorts::Range(first, u16::MAX), cell);
        }
        changes.add((0, 1), Transport::Udp, ChangedPorts::Range(1, u16::MAX), opens);
        let found: Vec<_> = changes.by_pair[&(0, 1)]
            .iter()
            .map(|change| (change.transport, change.ports.clone(), change.cell.change()))
            .collect();
        let (opens, closes) = (Some(Change::Opens), Some(Change::Closes));
        assert_eq!(
            found,
            [
                (Transport::Tcp, ChangedPorts::Range(80, 442), opens),
                (Transport::Tcp, ChangedPorts::Range(500, 500), closes),
                (Transport::Tcp, ChangedPorts::Range(501, u16::MAX), opens),
                (Transport::Udp, ChangedPorts::Range(1, u16::MAX), opens),
            ]
        );
        let rows = ["a", "b"].map(|name| Row { name: name.to_owned(), members: vec![0, 1] });
        assert_eq!(changes.totals(&rows), Totals { n_opened: 4, n_closed: 4 });
    }
}
