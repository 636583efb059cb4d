//! Draws a matrix of verdicts.
//!
//! In: names and cells. Out: text, with colours and symbols or in plain ASCII. Must not: evaluate policies.

use comfy_table::{Attribute, Cell as TableCell, CellAlignment, Color, Table, presets};

/// A table of verdicts, one row for each source and one column for each destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Matrix {
    /// Text of the corner cell: port and protocol.
    pub(super) corner: String,
    /// Names of the destinations.
    pub(super) columns: Vec<String>,
    /// Names of the sources, each with a cell for every destination.
    pub(super) rows: Vec<(String, Vec<Cell>)>,
}

/// One verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// The connection is allowed.
    Allowed,
    /// The connection is denied.
    Denied,
    /// With `--what-if`: denied before, allowed after.
    Opened,
    /// With `--what-if`: allowed before, denied after.
    Closed,
    /// No verdict, because source and destination are equal.
    Blank,
}

/// The style of the drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Plain ASCII, for files and for `NO_COLOR`.
    Plain,
    /// Symbols, lines and colours, for a terminal.
    Styled,
}

impl Cell {
    const fn text(self, style: Style) -> &'static str {
        match (self, style) {
            (Self::Allowed, Style::Plain) => "yes",
            (Self::Denied, Style::Plain) => "no",
            (Self::Opened, Style::Plain) => "no -> yes",
            (Self::Closed, Style::Plain) => "yes -> no",
            (Self::Blank, Style::Plain) => ".",
            (Self::Allowed, Style::Styled) => "✔",
            (Self::Denied, Style::Styled) => "✘",
            (Self::Opened, Style::Styled) => "✘ → ✔",
            (Self::Closed, Style::Styled) => "✔ → ✘",
            (Self::Blank, Style::Styled) => "·",
        }
    }

    fn draw(self, style: Style) -> TableCell {
        let cell = TableCell::new(self.text(style)).set_alignment(CellAlignment::Center);
        match (self, style) {
            (_, Style::Plain) => cell,
            (Self::Allowed, Style::Styled) => cell.fg(Color::Green),
            (Self::Denied, Style::Styled) => cell.fg(Color::Red),
            (Self::Opened, Style::Styled) => cell.fg(Color::Green).add_attribute(Attribute::Bold),
            (Self::Closed, Style::Styled) => cell.fg(Color::Red).add_attribute(Attribute::Bold),
            (Self::Blank, Style::Styled) => cell.fg(Color::DarkGrey),
        }
    }
}

/// Draws the matrix. The text ends with a line break.
pub(super) fn render(matrix: &Matrix, style: Style) -> String {
    let Matrix { corner, columns, rows } = matrix;
    let mut table = Table::new();
    match style {
        Style::Plain => {
            table.load_style(presets::ASCII_FULL_CONDENSED).force_no_tty();
        }
        Style::Styled => {
            table.load_style(presets::UTF8_FULL_CONDENSED).enforce_styling();
        }
    }
    let heading = |name: &String| {
        // A line break after the namespace makes the columns narrower.
        TableCell::new(name.replacen('/', "/\n", 1)).set_alignment(CellAlignment::Center)
    };
    let header = [TableCell::new(corner)].into_iter().chain(columns.iter().map(heading));
    table.set_header(header.collect::<Vec<_>>());
    for (name, cells) in rows {
        let row =
            [TableCell::new(name)].into_iter().chain(cells.iter().map(|cell| cell.draw(style)));
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
        let text = render(&example(), Style::Plain);
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
    fn styled_has_symbols_in_green_and_red() {
        let text = render(&example(), Style::Styled);
        assert!(text.contains("\u{1b}[38;5;10m") && text.contains('✔'), "{text:?}");
        assert!(text.contains("\u{1b}[38;5;9m") && text.contains('✘'), "{text:?}");
    }
}
