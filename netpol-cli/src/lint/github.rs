//! Findings as workflow commands of GitHub Actions, which mark the lines in a pull request.

use std::io::{self, Write};

use netpol_policy::lint::Level;

use super::entry::Entry;

/// Writes a command for each finding.
pub(super) fn write(entries: &[Entry], out: &mut dyn Write) -> io::Result<()> {
    for entry in entries {
        let Entry {
            code,
            name: _,
            level,
            location,
            column,
            object,
            field,
            message,
            advice,
            fix: _,
        } = entry;
        let command = match level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "notice",
        };
        write!(out, "::{command} ")?;
        if let Some(location) = location {
            write!(out, "file={},", property(&location.file.to_string_lossy()))?;
            if location.line != 0 {
                write!(out, "line={},", location.line)?;
            }
        }
        if let Some(column) = column {
            write!(out, "col={column},")?;
        }
        let object = object.as_ref().map_or_else(String::new, |object| format!("{object}: "));
        let field = field.as_deref().filter(|field| !field.is_empty());
        let field = field.map_or_else(String::new, |field| format!("{field} "));
        let advice = advice.map_or_else(String::new, |advice| format!("\n{advice}"));
        let text = data(&format!("{object}{field}{message}{advice}"));
        writeln!(out, "title={}::{text}", property(code))?;
    }
    Ok(())
}

/// A text after the `::`.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// The value of a property.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
