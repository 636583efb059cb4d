//! Reachability as a table: who reaches whom.
//!
//! In: names and cells. Out: text, with colours and symbols or plain ASCII. Must not: know where the cells come from.

use comfy_table::{Attribute, Cell as TableCell, CellAlignment, Color, Table, presets};

/// A table of verdicts, one row for each source and one column for each destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matrix {
    /// What is in the corner: the port, usually.
    pub corner: String,
    /// Names of the destinations.
    pub columns: Vec<String>,
    /// Names of the sources, each with a cell for every destination.
    pub rows: Vec<(String, Vec<Cell>)>,
}

/// One verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// The connection passes.
    Allowed,
    /// It does not.
    Denied,
    /// It would pass, and does not now.
    Opened,
    /// It would not pass, and does now.
    Closed,
    /// Nothing to tell: a pod and itself.
    Blank,
}

/// How a table is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Plain ASCII, for files and for `NO_COLOR`.
    Plain,
    /// Symbols, lines and colours, for a terminal.
    Styled,
}

impl Cell {
    const fn text(self, look: Look) -> &'static str {
        match (self, look) {
            (Self::Allowed, Look::Plain) => "yes",
            (Self::Denied, Look::Plain) => "no",
            (Self::Opened, Look::Plain) => "no -> yes",
            (Self::Closed, Look::Plain) => "yes -> no",
            (Self::Blank, Look::Plain) => ".",
            (Self::Allowed, Look::Styled) => "✔",
            (Self::Denied, Look::Styled) => "✘",
            (Self::Opened, Look::Styled) => "✘ → ✔",
            (Self::Closed, Look::Styled) => "✔ → ✘",
            (Self::Blank, Look::Styled) => "·",
        }
    }

    fn draw(self, look: Look) -> TableCell {
        let cell = TableCell::new(self.text(look)).set_alignment(CellAlignment::Center);
        match (self, look) {
            (_, Look::Plain) => cell,
            (Self::Allowed, Look::Styled) => cell.fg(Color::Green),
            (Self::Denied, Look::Styled) => cell.fg(Color::Red),
            (Self::Opened, Look::Styled) => cell.fg(Color::Green).add_attribute(Attribute::Bold),
            (Self::Closed, Look::Styled) => cell.fg(Color::Red).add_attribute(Attribute::Bold),
            (Self::Blank, Look::Styled) => cell.fg(Color::DarkGrey),
        }
    }
}

/// Draws the table, with a line break at the end.
pub fn render(matrix: &Matrix, look: Look) -> String {
    let Matrix { corner, columns, rows } = matrix;
    let mut table = Table::new();
    match look {
        Look::Plain => {
            table.load_style(presets::ASCII_FULL_CONDENSED).force_no_tty();
        }
        Look::Styled => {
            table.load_style(presets::UTF8_FULL_CONDENSED).enforce_styling();
        }
    }
    let heading = |name: &String| {
        // Namespace and name one above the other: columns are as narrow as can be.
        TableCell::new(name.replacen('/', "/\n", 1)).set_alignment(CellAlignment::Center)
    };
    let header = [TableCell::new(corner)].into_iter().chain(columns.iter().map(heading));
    table.set_header(header.collect::<Vec<_>>());
    for (name, cells) in rows {
        let row =
            [TableCell::new(name)].into_iter().chain(cells.iter().map(|cell| cell.draw(look)));
        table.add_row(row.collect::<Vec<_>>());
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn example() -> Matrix {
        let names = ["x/a", "x/b", "1.2.3.4"].map(str::to_owned);
        let [a, b, out] = names.clone();
        Matrix {
            corner: "80/TCP".to_owned(),
            columns: names.to_vec(),
            rows: vec![
                (a, vec![Cell::Blank, Cell::Allowed, Cell::Denied]),
                (b, vec![Cell::Opened, Cell::Blank, Cell::Closed]),
                (out, vec![Cell::Denied, Cell::Allowed, Cell::Blank]),
            ],
        }
    }

    #[test]
    fn plain_is_ascii() {
        let text = render(&example(), Look::Plain);
        assert!(text.is_ascii());
        expect![[r#"
            +---------+-----------+-----+-----------+
            | 80/TCP  |     x/    |  x/ |  1.2.3.4  |
            |         |     a     |  b  |           |
            +=======================================+
            | x/a     |     .     | yes |     no    |
            | x/b     | no -> yes |  .  | yes -> no |
            | 1.2.3.4 |     no    | yes |     .     |
            +---------+-----------+-----+-----------+
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn styled_has_marks_in_green_and_red() {
        let text = render(&example(), Look::Styled);
        assert!(text.contains("\u{1b}[38;5;10m") && text.contains('✔'), "{text:?}");
        assert!(text.contains("\u{1b}[38;5;9m") && text.contains('✘'), "{text:?}");
    }
}
