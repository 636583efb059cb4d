//! YAML and JSON text to JSON values, as `kubectl` reads them.
//!
//! In: the text of a file. Out: its documents, each with the lines of all its parts and with what was
//! wrong in it. A document with a flaw is still there, with a mark in place of what cannot be read, so that a
//! policy in it can still isolate. Later documents are not lost by an earlier one's syntax error.
//! Must not: read files, know the API, or use unbounded memory for a small text.
//!
//! The parser's events are taken directly instead of decoding into [`serde_json::Value`]: only so are the
//! lines known, scalars mean what they mean to `kubectl`, and a broken document keeps its beginning.

mod build;
mod lines;
mod scalar;

use granit_parser::{Event, Parser, options};
use serde_json::Value;

use build::Builder;
pub(super) use build::UNREADABLE;
pub use lines::Lines;
use lines::Place;

/// The most documents in one text.
const MAX_DOCUMENTS: usize = 100_000;

/// One document.
#[derive(Debug)]
pub(super) struct Document {
    /// The value, with marks in it if there are flaws.
    pub(super) value: Value,
    lines: Lines,
    /// What was wrong in it.
    pub(super) flaws: Vec<Flaw>,
    /// Whether it ends early because of a syntax error.
    pub(super) is_broken: bool,
}

impl Document {
    /// Where a field stands.
    pub(super) fn find(&self, path: &str) -> Place {
        self.lines.find(path)
    }

    /// The lines of a part of it.
    pub(super) fn lines_of(&self, path: &str) -> Lines {
        self.lines.nearest(path).clone()
    }
}

/// Something wrong in the text itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    /// Which sort.
    pub(super) kind: FlawKind,
    /// Its line, counted from 1.
    pub(super) line: usize,
    /// What is wrong: lower case, no full stop.
    pub(super) message: String,
}

/// The sorts of flaws in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlawKind {
    /// It is not YAML.
    Syntax,
    /// A mapping has a key twice.
    RepeatedKey,
    /// It is YAML, but has no meaning as JSON.
    Value,
    /// It is larger than what is read.
    TooLarge,
}

/// Reads all documents of a text. Empty ones are left out.
pub(super) fn documents(text: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = options! { emit_comments: false, emit_unresolved_aliases: true };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut documents = Vec::new();
    let mut builder = Builder::default();
    // Each document ends once or fails once, and a failure skips text, so that this ends.
    loop {
        let is_ended = match parser.next_event() {
            None => break,
            Some(Ok((Event::DocumentEnd, _))) => true,
            Some(Ok((event, span))) => {
                builder.event(&event, &span);
                continue;
            }
            Some(Err(error)) => {
                builder.break_off(error.marker().line(), error.info());
                false
            }
        };
        if documents.len() >= MAX_DOCUMENTS {
            let mut last = Builder::default();
            last.break_off(1, format!("there are more than {MAX_DOCUMENTS} documents"));
            documents.extend(last.finish());
            break;
        }
        documents.extend(std::mem::take(&mut builder).finish());
        if !is_ended && !matches!(parser.proceed_next_document(), Ok(true)) {
            break;
        }
    }
    documents
}

#[cfg(test)]
mod tests;
