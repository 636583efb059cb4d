//! The verdicts on one port.

use netpol_policy::model::Transport;
use netpol_policy::simulate::{Answer, PortChoice};
use serde::Serialize;

use super::args::PortArg;

/// A table of verdicts: one row for each source and one column for each destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// The port, as given or declared.
    pub(super) port: String,
    pub(super) transport: Transport,
    /// The destinations, as positions of rows.
    pub(super) columns: Vec<usize>,
    /// For each source the cells of all columns.
    pub(super) cells: Vec<Vec<Cell>>,
}

impl Table {
    /// The port, as an argument names it.
    pub(super) fn port_arg(&self) -> PortArg {
        PortArg { port: PortChoice::from(self.port.as_str()), transport: self.transport }
    }
}

/// One verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// No verdict, because source and destination are the same pod.
    Blank,
    /// The verdict.
    Is(Answer),
    /// The verdicts before and after a change.
    Becomes(Answer, Answer),
}

/// The effect of a change on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Change {
    Opens,
    Closes,
}

impl Change {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Opens => "opens",
            Self::Closes => "closes",
        }
    }
}

impl Cell {
    pub(super) fn new(before: Option<Answer>, now: Answer) -> Self {
        match before {
            Some(before) if before != now => Self::Becomes(before, now),
            Some(_) | None => Self::Is(now),
        }
    }

    /// The verdict, after the changes.
    pub(super) const fn answer(self) -> Option<Answer> {
        match self {
            Self::Blank => None,
            Self::Is(answer) | Self::Becomes(_, answer) => Some(answer),
        }
    }

    /// The verdict before the changes.
    pub(super) const fn before(self) -> Option<Answer> {
        match self {
            Self::Blank => None,
            Self::Is(answer) | Self::Becomes(answer, _) => Some(answer),
        }
    }

    /// The effect of the changes. One family instead of the other closes, because something is denied that was allowed.
    pub(super) fn change(self) -> Option<Change> {
        let Self::Becomes(before, now) = self else { return None };
        let is_only_other = (before, now) == (Answer::OnlyIpv4, Answer::OnlyIpv6);
        Some(if now > before && !is_only_other { Change::Opens } else { Change::Closes })
    }
}

/// An answer in one word or two.
pub(super) const fn word(answer: Answer) -> &'static str {
    match answer {
        Answer::Denied => "no",
        Answer::Possible => "maybe",
        Answer::OnlyIpv4 => "IPv4 only",
        Answer::OnlyIpv6 => "IPv6 only",
        Answer::Allowed => "yes",
    }
}

/// An answer for programs.
pub(crate) const fn verdict(answer: Answer) -> &'static str {
    match answer {
        Answer::Denied => "deny",
        Answer::Possible => "depends",
        Answer::OnlyIpv4 => "ipv4",
        Answer::OnlyIpv6 => "ipv6",
        Answer::Allowed => "allow",
    }
}
