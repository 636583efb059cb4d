//! Who can connect to whom: a table of rows (from) and columns (to).

use std::fmt::{self, Write as _};

use anyhow::{Context as _, Result};
use console::style;

use super::cast::{COLUMNS, ROWS};

/// Width of a column, in characters.
const COLUMN_WIDTH: usize = 7;

/// Width of the rows' names, in characters.
const NAME_WIDTH: usize = 9;

/// Width of a drawn matrix, in characters.
pub(super) const WIDTH: usize = NAME_WIDTH + COLUMNS.len() * COLUMN_WIDTH;

/// Whether a connection passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// It is not tried.
    None,
    /// It passes over IPv4 and IPv6.
    Open,
    /// It is dropped in both families.
    Closed,
    /// Never expected: the families differ, or the connection failed for another reason.
    Odd(String),
}

impl Cell {
    fn mark(&self) -> char {
        match self {
            Self::None => '·',
            Self::Open => '✔',
            Self::Closed => '✘',
            Self::Odd(_) => '?',
        }
    }
}

/// The table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Matrix {
    /// [`ROWS`] rows of [`COLUMNS`] cells.
    rows: Vec<Vec<Cell>>,
}

/// A cell in which two matrices differ.
pub(super) struct Difference {
    /// Such as `client -> web 80`.
    pub(super) name: String,
    /// The first matrix's cell.
    pub(super) seen: Cell,
    /// The second matrix's cell.
    pub(super) expected: Cell,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, seen, expected } = self;
        write!(f, "{name}: {} instead of {}", seen.mark(), expected.mark())?;
        match seen {
            Cell::Odd(why) => write!(f, " ({why})"),
            Cell::None | Cell::Open | Cell::Closed => Ok(()),
        }
    }
}

impl Matrix {
    /// Fills the cells row by row.
    ///
    /// # Errors
    /// The first error of `cell`.
    pub(super) fn of(mut cell: impl FnMut(usize, usize) -> Result<Cell>) -> Result<Self> {
        let row = |row| (0..COLUMNS.len()).map(|column| cell(row, column)).collect();
        Ok(Self { rows: (0..ROWS.len()).map(row).collect::<Result<_>>()? })
    }

    /// Reads a table of marks, one line a row, as [`Matrix::lines`] draws the cells.
    ///
    /// # Errors
    /// It is malformed.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let rows: Vec<Vec<char>> =
            text.split_whitespace().map(|row| row.chars().collect()).collect();
        anyhow::ensure!(rows.len() == ROWS.len(), "{} rows", rows.len());
        Self::of(|row, column| {
            let mark =
                rows.get(row).and_then(|row| row.get(column)).context("a row is too short")?;
            let cells = [Cell::None, Cell::Open, Cell::Closed];
            cells.into_iter().find(|cell| cell.mark() == *mark).context("an unknown mark")
        })
    }

    /// How many cells are tried.
    pub(super) fn n_tried(&self) -> usize {
        self.rows.iter().flatten().filter(|cell| **cell != Cell::None).count()
    }

    /// The cells that differ from the expected ones.
    pub(super) fn differences(&self, expected: &Self) -> Vec<Difference> {
        let mut differences = Vec::new();
        for ((name, _), (row, expected)) in ROWS.iter().zip(self.rows.iter().zip(&expected.rows)) {
            for (column, (seen, expected)) in COLUMNS.iter().zip(row.iter().zip(expected)) {
                if seen != expected {
                    differences.push(Difference {
                        name: format!("{name} -> {}", column.head.join(" ")),
                        seen: seen.clone(),
                        expected: expected.clone(),
                    });
                }
            }
        }
        differences
    }

    /// Draws it, one line per row, each [`WIDTH`] wide. Cells that differ from `before` are highlighted.
    pub(super) fn lines(&self, title: &str, before: &Self) -> Vec<String> {
        let mut lines = vec![format!("{:WIDTH$}", style(title).bold())];
        for head in 0..2 {
            let mut line = " ".repeat(NAME_WIDTH);
            for column in &COLUMNS {
                let word = column.head.get(head).copied().unwrap_or_default();
                write!(line, "{:>COLUMN_WIDTH$}", style(word).dim()).ok();
            }
            lines.push(line);
        }
        for ((name, _), (row, before)) in ROWS.iter().zip(self.rows.iter().zip(&before.rows)) {
            let mut line = format!("{name:NAME_WIDTH$}");
            for (cell, before) in row.iter().zip(before) {
                let mark = style(format!("{:>COLUMN_WIDTH$}", cell.mark()));
                let mark = if cell == before { mark } else { mark.bold() };
                let mark = match cell {
                    Cell::None => mark.dim(),
                    Cell::Open => mark.green(),
                    Cell::Closed => mark.red(),
                    Cell::Odd(_) => mark.yellow(),
                };
                write!(line, "{mark}").ok();
            }
            lines.push(line);
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: &str = "✔✔✔✔✔✔✔ ✔✔✔✔✔✔✔ ✔··✔✔✔✔ ✔✔✔✔✔✔✔ ✔✔✔✔✔✔✔ ✔✔✔✔✔·· ✔✔✔✔✔·· ✔✔✔✔✔··";

    #[test]
    fn a_table_of_marks_is_read_and_compared() {
        let open = Matrix::parse(OPEN).unwrap();
        assert_eq!(open.n_tried(), 48);
        let one_closed = Matrix::parse(&OPEN.replacen('✔', "✘", 1)).unwrap();
        let differences = one_closed.differences(&open);
        let [difference] = differences.as_slice() else { panic!() };
        assert_eq!(difference.name, "front -> redis 6379");
        assert_eq!((&difference.seen, &difference.expected), (&Cell::Closed, &Cell::Open));
        assert!(open.differences(&open).is_empty());
    }

    #[test]
    fn what_is_not_a_table_is_refused() {
        assert!(Matrix::parse("").is_err());
        assert!(Matrix::parse(&OPEN.replacen('✔', "x", 1)).is_err());
        assert!(Matrix::parse(&OPEN.replacen('✔', "", 1)).is_err());
    }

    #[test]
    fn all_lines_have_the_same_width() {
        let open = Matrix::parse(OPEN).unwrap();
        for line in open.lines("before", &open) {
            assert_eq!(console::measure_text_width(&line), WIDTH, "{line}");
        }
    }
}
