//! The line of a finding, with a mark under the field.
//!
//! In: the location of a finding. Out: lines of text. Must not: write.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level as Mark, Renderer, Snippet};
use netpol_policy::lint::Level;
use netpol_policy::manifests::Location;

/// The longest line that is shown, bytes. A document on one line is of no use to a reader.
const MAX_LINE_BYTES: usize = 400;

/// The texts of the files with findings, each read once.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    /// Those that cannot be read again.
    piped: &'a BTreeMap<PathBuf, String>,
    by_file: BTreeMap<Arc<Path>, Option<Source<'a>>>,
    renderer: Renderer,
}

/// A text, and where each of its lines begins, so that a finding costs as much in a long text as in a short one.
#[derive(Debug)]
struct Source<'a> {
    text: Cow<'a, str>,
    starts: Vec<usize>,
}

impl<'a> Source<'a> {
    fn new(text: Cow<'a, str>) -> Self {
        // As the reader of the objects, which ends a line at a lone carriage return too.
        let begin = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        let next = text.bytes().skip(1).map(Some).chain([None]);
        let ends =
            text.bytes().zip(next).enumerate().filter(|(_, (byte, next))| {
                *byte == b'\n' || (*byte == b'\r' && *next != Some(b'\n'))
            });
        let after = ends.map(|(at, _)| at.saturating_add(1));
        let starts = [begin].into_iter().chain(after).collect();
        Self { text, starts }
    }

    /// A line by its number, counted from 1.
    fn line(&self, number: usize) -> Option<&str> {
        let start = *self.starts.get(number.checked_sub(1)?)?;
        let end = self.starts.get(number).copied().unwrap_or(self.text.len());
        Some(self.text.get(start..end)?.trim_end_matches(['\n', '\r']))
    }
}

impl<'a> Sources<'a> {
    /// The sources of a command that has read pipes, drawn with colours or without.
    pub(super) fn new(piped: &'a BTreeMap<PathBuf, String>, renderer: Renderer) -> Self {
        Self { piped, by_file: BTreeMap::new(), renderer }
    }

    /// The line at a location, with a mark under what begins there; `None` if it is unknown or too long.
    pub(super) fn excerpt(&mut self, location: &Location, level: Level) -> Option<String> {
        let Location { file, line, column } = location;
        let read = || {
            let piped = self.piped.get(&**file).map(|text| Cow::Borrowed(text.as_str()));
            let text = piped.or_else(|| fs::read_to_string(file).ok().map(Cow::Owned));
            text.map(Source::new)
        };
        let text = self.by_file.entry(Arc::clone(file)).or_insert_with(read).as_ref()?;
        let source = text.line(*line)?;
        if source.len() > MAX_LINE_BYTES {
            return None;
        }
        let mark = match level {
            Level::Error => Mark::ERROR,
            Level::Warning => Mark::WARNING,
            Level::Info => Mark::INFO,
        };
        let annotation = AnnotationKind::Primary.span(marked(source, column.checked_sub(1)?));
        let snippet = Snippet::source(source).line_start(*line).annotation(annotation);
        Some(self.renderer.render(&[Group::with_level(mark).element(snippet)]))
    }
}

/// The bytes of the field or value that begins at a column, which is counted in characters from 0.
fn marked(line: &str, column: usize) -> Range<usize> {
    let start = line.char_indices().nth(column).map_or(line.len(), |(at, _)| at);
    let rest = line.get(start..).unwrap_or_default();
    let mut depth = 0_usize;
    let mut quote = None;
    let mut end = rest.len();
    let mut before = ' ';
    for (at, letter) in rest.char_indices() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, '{' | '[') => depth = depth.saturating_add(1),
            (None, '}' | ']' | ',') if depth == 0 => {
                end = at;
                break;
            }
            (None, '}' | ']') => depth = depth.saturating_sub(1),
            (None, '#') if before == ' ' => {
                end = at;
                break;
            }
            (Some(_) | None, _) => {}
        }
        before = letter;
    }
    let found = rest.get(..end).unwrap_or_default().trim_end();
    start..start.saturating_add(found.len().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_reader() {
        let source = Source::new(Cow::Borrowed("\u{feff}a\r\nb\rc\n\nd"));
        let lines: Vec<_> = (0..7).map(|number| source.line(number)).collect();
        assert_eq!(lines, [None, Some("a"), Some("b"), Some("c"), Some(""), Some("d"), None]);
        assert_eq!(Source::new(Cow::Borrowed("")).line(1), Some(""));
    }

    #[test]
    fn the_mark_covers_the_field_and_its_value() {
        for (line, column, expected) in [
            ("  podSelector: {}  # all", 2, "podSelector: {}"),
            ("- ipBlock: { cidr: 10.0.0.1/8, except: [10.0.0.0/9] }", 13, "cidr: 10.0.0.1/8"),
            ("- ipBlock: { cidr: 10.0.0.1/8, except: [10.0.0.0/9] }", 31, "except: [10.0.0.0/9]"),
            ("  key: 'a, # b', c: d", 2, "key: 'a, # b'"),
            ("  größe: 1 }", 2, "größe: 1"),
            ("  a", 9, ""),
        ] {
            assert_eq!(line.get(marked(line, column)).unwrap_or_default(), expected, "{line}");
        }
    }
}
