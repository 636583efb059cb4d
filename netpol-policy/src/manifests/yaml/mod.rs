//! YAML and JSON text to JSON values, as `kubectl` reads them.
//!
//! In: the text of a file. Out: its documents one after the other, each with the line of every value and with its flaws. The
//! items of a list of objects come before their document, so that a whole cluster in one list is never in memory at once. A
//! document with a flaw is kept, with a marker instead of each value that cannot be read, so that a policy in it still isolates. A syntax
//! error in one document does not affect the documents after it.
//! Must not: read files, depend on the Kubernetes API, or use unbounded memory for a small text.
//!
//! The documents are built from the parser's events instead of being decoded into [`serde_json::Value`], because only the
//! events carry lines, let scalars be read as `kubectl` reads them, and keep the beginning of a broken document. A text of JSON
//! documents without a syntax error has a reader of its own, because that of YAML takes several times as long.

mod build;
mod chunks;
mod document;
mod json;
mod lines;
mod names;
mod scalar;

use build::Builder;
pub(super) use build::MAX_VALUES;
pub(super) use build::UNREADABLE;
pub(super) use chunks::{Chunk, chunks};
pub(crate) use document::{Document, FlawKind, Item, ListHead, Part};
use granit_parser::{Event, Parser, StrInput, options};
pub use lines::Lines;
pub(crate) use lines::Position;

/// The largest number of documents in one text.
const MAX_DOCUMENTS: usize = 100_000;

/// Reads the documents of a chunk, except empty ones, and the items of lists.
pub(super) fn parts(chunk: Chunk<'_>) -> impl Iterator<Item = Part> {
    let Chunk { text, n_lines_before, json } = chunk;
    Parts::of(match json {
        Some(documents) => Source::Json(json::Reader::new(text, documents)),
        None => yaml(text, n_lines_before),
    })
}

/// The events of a text as YAML.
fn yaml(text: &str, n_lines_before: u32) -> Source<'_> {
    let options = options! { emit_comments: false, emit_unresolved_aliases: true };
    let parser = Box::new(Parser::new_from_str_with_options(text, options));
    Source::Yaml { parser, n_lines_before }
}

/// What a document is read from.
enum Source<'a> {
    Yaml { parser: Box<Parser<'a, StrInput<'a>>>, n_lines_before: u32 },
    Json(json::Reader<'a>),
}

/// How far a document has been read.
enum Step {
    /// There may be more of it. The last event or token has this position.
    Inside(Position),
    /// Whole.
    Whole,
    /// Up to a syntax error.
    Broken,
}

impl Source<'_> {
    /// Reads the next event or token; `None` at the end of the text.
    fn step(&mut self, builder: &mut Builder) -> Option<Step> {
        match self {
            Self::Yaml { parser, n_lines_before } => Some(match parser.next_event()? {
                Ok((Event::DocumentEnd, _)) => Step::Whole,
                Ok((event, span)) => {
                    let position = Position::of(&span.start, *n_lines_before);
                    builder.event(&event, position);
                    Step::Inside(position)
                }
                Err(error) => {
                    let position = Position::of(error.marker(), *n_lines_before);
                    builder.break_off(position, error.info());
                    Step::Broken
                }
            }),
            Self::Json(reader) => {
                let Some((token, position)) = reader.next_token() else {
                    return reader.is_in_document().then_some(Step::Whole);
                };
                builder.token(&token, position);
                Some(Step::Inside(position))
            }
        }
    }

    /// Goes on behind a document. Returns whether there is more.
    fn next_document(&mut self, step: &Step) -> bool {
        match (self, step) {
            // The parser goes on by itself.
            (Self::Yaml { .. }, Step::Whole) => true,
            (Self::Yaml { parser, .. }, Step::Inside(_) | Step::Broken) => {
                matches!(parser.proceed_next_document(), Ok(true))
            }
            (Self::Json(reader), _) => reader.next_document(),
        }
    }
}

struct Parts<'a> {
    source: Source<'a>,
    builder: Builder,
    n_documents: usize,
    /// A document that comes after an item.
    ended: Option<Document>,
    is_over: bool,
}

impl<'a> Parts<'a> {
    fn of(source: Source<'a>) -> Self {
        Self { source, builder: Builder::default(), n_documents: 0, ended: None, is_over: false }
    }
}

impl Iterator for Parts<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        if let Some(document) = self.ended.take() {
            return Some(Part::Document(document));
        }
        // The loop ends because each document ends once or fails once, and a failure skips text.
        while !self.is_over {
            let Self { source, builder, .. } = self;
            let step = source.step(builder)?;
            if let Step::Inside(position) = step {
                if let Some(item) = builder.take_item() {
                    return Some(Part::Item(item));
                }
                if !builder.is_too_large(position) {
                    continue;
                }
            }
            if self.n_documents >= MAX_DOCUMENTS {
                self.is_over = true;
                let mut last = Builder::default();
                last.break_off(
                    Position::START,
                    format!("there are more than {MAX_DOCUMENTS} documents"),
                );
                return last.finish().1.map(Part::Document);
            }
            self.is_over = !source.next_document(&step);
            let (item, document) = builder.finish();
            self.n_documents += usize::from(document.is_some());
            if let Some(item) = item {
                self.ended = document;
                return Some(Part::Item(item));
            }
            if let Some(document) = document {
                return Some(Part::Document(document));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
