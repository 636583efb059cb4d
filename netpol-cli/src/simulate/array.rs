//! A JSON array that is written item by item, so that it is never in memory.

use std::io::{self, Write};

use serde::Serialize;

/// A JSON array that is written item by item, as [`serde_json::to_writer_pretty`] writes it.
#[derive(Default)]
pub(super) struct Array {
    n_items: usize,
}

impl Array {
    pub(super) fn push(&mut self, item: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(if self.n_items == 0 { b"[\n" } else { b",\n" })?;
        self.n_items += 1;
        let text = serde_json::to_string_pretty(item)?;
        for (number, line) in text.lines().enumerate() {
            write!(out, "{}  {line}", if number == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }

    pub(super) fn finish(self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(if self.n_items == 0 { b"[]\n" } else { b"\n]\n" })
    }
}
