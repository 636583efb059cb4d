//! How live commands print: tables as kubectl writes them, JSON, YAML.
//!
//! In: rows, values. Out: text without control characters, because names and messages come from nodes. Must not: ask anybody.

use std::io;

use clap::ValueEnum;
use comfy_table::{Table, presets};
use netpol_terminal::Terminal;
use serde::Serialize;

/// The output format of a live command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text for people.
    #[default]
    Text,
    /// Text with more columns.
    Wide,
    /// JSON for programs.
    Json,
    /// YAML for programs.
    Yaml,
}

impl Format {
    /// Writes a value as JSON or YAML. Returns false, and writes nothing, for text.
    pub(super) fn write(
        self,
        value: &impl Serialize,
        terminal: &mut Terminal<'_>,
    ) -> anyhow::Result<bool> {
        match self {
            Self::Text | Self::Wide => return Ok(false),
            Self::Json => {
                serde_json::to_writer_pretty(&mut terminal.stdout, value)
                    .map_err(io::Error::from)?;
                writeln!(terminal.stdout)?;
            }
            Self::Yaml => write!(terminal.stdout, "{}", serde_saphyr::to_string(value)?)?,
        }
        Ok(true)
    }

    /// Whether more columns are wanted.
    pub(super) const fn is_wide(self) -> bool {
        matches!(self, Self::Wide)
    }
}

/// A table as kubectl writes it.
#[derive(Debug)]
pub(super) struct Rows(Table);

impl Rows {
    /// A table with these columns.
    pub(super) fn new(columns: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(columns);
        for column in table.column_iter_mut() {
            column.set_padding((0, 3));
        }
        Self(table)
    }

    /// Adds a row.
    pub(super) fn add(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells.into_iter().map(|cell| printable(&cell)));
    }

    /// Writes the table, without trailing spaces.
    pub(super) fn write(&self, terminal: &mut Terminal<'_>) -> io::Result<()> {
        for line in self.0.lines() {
            writeln!(terminal.stdout, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// The text without control characters, which a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// `-` for an empty text.
pub(super) fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_control_characters_of_a_node() {
        assert_eq!(printable("shop/web\u{1b}[2J\n"), "shop/web\u{fffd}[2J\u{fffd}");
    }
}
