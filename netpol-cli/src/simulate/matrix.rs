//! Draws a table of verdicts.
//!
//! In: names and cells. Out: text, with colours and symbols or in plain ASCII. Must not: evaluate policies.

use comfy_table::{Attribute, Cell as TableCell, CellAlignment, Color, Table as Drawing, presets};
use netpol_policy::simulate::Answer;

use super::rows::Row;
use super::table::{Cell, Change, Table, word};

/// The style of the drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Plain ASCII, for files and for `NO_COLOR`.
    Plain,
    /// Symbols, lines and colours, for a terminal.
    Styled,
}

fn symbol(answer: Answer, style: Style) -> &'static str {
    match (answer, style) {
        (Answer::Allowed, Style::Styled) => "✔",
        (Answer::Denied, Style::Styled) => "✘",
        (Answer::Possible, Style::Styled) => "?",
        (_, Style::Plain) | (Answer::OnlyIpv4 | Answer::OnlyIpv6, Style::Styled) => word(answer),
    }
}

fn text(cell: Cell, style: Style) -> String {
    match (cell, style) {
        (Cell::Blank, Style::Plain) => ".".to_owned(),
        (Cell::Blank, Style::Styled) => "·".to_owned(),
        (Cell::Is(answer), _) => symbol(answer, style).to_owned(),
        (Cell::Becomes(before, now), Style::Plain) => format!("{} -> {}", word(before), word(now)),
        (Cell::Becomes(before, now), Style::Styled) => {
            format!("{} → {}", symbol(before, style), symbol(now, style))
        }
    }
}

fn draw(cell: Cell, style: Style) -> TableCell {
    let drawn = TableCell::new(text(cell, style)).set_alignment(CellAlignment::Center);
    if style == Style::Plain {
        return drawn;
    }
    match cell.change() {
        Some(Change::Opens) => return drawn.fg(Color::Green).add_attribute(Attribute::Bold),
        Some(Change::Closes) => return drawn.fg(Color::Red).add_attribute(Attribute::Bold),
        None => {}
    }
    match cell.answer() {
        Some(Answer::Allowed) => drawn.fg(Color::Green),
        Some(Answer::Denied) => drawn.fg(Color::Red),
        Some(Answer::Possible | Answer::OnlyIpv4 | Answer::OnlyIpv6) => drawn.fg(Color::Yellow),
        None => drawn.fg(Color::DarkGrey),
    }
}

/// Draws the table. The text ends with a line break.
pub(super) fn render(table: &Table, rows: &[Row], style: Style) -> String {
    let Table { port, transport, columns, cells } = table;
    let mut drawing = Drawing::new();
    match style {
        Style::Plain => {
            drawing.load_style(presets::ASCII_FULL_CONDENSED).force_no_tty();
        }
        Style::Styled => {
            drawing.load_style(presets::UTF8_FULL_CONDENSED).enforce_styling();
        }
    }
    let heading = |row: &Row| {
        // A line break after the namespace makes the columns narrower.
        TableCell::new(row.name.replacen('/', "/\n", 1)).set_alignment(CellAlignment::Center)
    };
    let headings = columns.iter().filter_map(|column| rows.get(*column)).map(heading);
    let corner = TableCell::new(format!("{port}/{transport}"));
    drawing.set_header([corner].into_iter().chain(headings).collect::<Vec<_>>());
    for (row, cells) in rows.iter().zip(cells) {
        let cells = cells.iter().map(|cell| draw(*cell, style));
        drawing.add_row([TableCell::new(&row.name)].into_iter().chain(cells).collect::<Vec<_>>());
    }
    let mut text = drawing.trim_fmt();
    text.push('\n');
    text
}

/// The number of columns that a drawing takes. Names and symbols have a column for each letter.
pub(super) fn width(drawing: &str) -> usize {
    let letters = |line: &str| {
        // A sequence for a colour ends with `m`.
        let mut in_sequence = false;
        let is_shown = |letter: &char| {
            let is_part = in_sequence || *letter == '\u{1b}';
            in_sequence = is_part && *letter != 'm';
            !is_part
        };
        line.chars().filter(is_shown).count()
    };
    drawing.lines().map(letters).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use netpol_policy::model::Transport;

    use super::*;

    fn example() -> (Table, Vec<Row>) {
        use Answer::{Allowed, Denied, OnlyIpv6, Possible};
        let rows = ["x/a", "x/b", "1.2.3.4"]
            .into_iter()
            .enumerate()
            .map(|(index, name)| Row { name: name.to_owned(), members: vec![index] })
            .collect();
        let table = Table {
            port: "80".to_owned(),
            transport: Transport::Tcp,
            columns: vec![0, 1, 2],
            cells: vec![
                vec![Cell::Blank, Cell::Is(Allowed), Cell::Is(Denied)],
                vec![Cell::Becomes(Denied, Allowed), Cell::Blank, Cell::Becomes(Allowed, Denied)],
                vec![Cell::Is(OnlyIpv6), Cell::Is(Possible), Cell::Blank],
            ],
        };
        (table, rows)
    }

    #[test]
    fn plain_is_ascii() {
        let (table, rows) = example();
        let text = render(&table, &rows, Style::Plain);
        assert!(text.is_ascii());
        assert_eq!(width(&text), 43);
        expect![[r#"
            +---------+-----------+-------+-----------+
            | 80/TCP  |     x/    |   x/  |  1.2.3.4  |
            |         |     a     |   b   |           |
            +=========================================+
            | x/a     |     .     |  yes  |     no    |
            | x/b     | no -> yes |   .   | yes -> no |
            | 1.2.3.4 | IPv6 only | maybe |     .     |
            +---------+-----------+-------+-----------+
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn styled_has_symbols_in_green_and_red() {
        let (table, rows) = example();
        let text = render(&table, &rows, Style::Styled);
        // Five less than in plain ASCII: `?` for `maybe`, and arrows between symbols.
        assert_eq!(width(&text), 38);
        assert!(text.contains("\u{1b}[38;5;10m") && text.contains('✔'), "{text:?}");
        assert!(text.contains("\u{1b}[38;5;9m") && text.contains('✘'), "{text:?}");
    }
}
