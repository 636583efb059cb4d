//! YAML and JSON text to JSON values, as `kubectl` reads them.
//!
//! In: the text of a file. Out: its documents, each with the line of every value and with its flaws. A document with a
//! flaw is kept, with a marker instead of each value that cannot be read, so that a policy in it still isolates. A syntax
//! error in one document does not affect the documents after it.
//! Must not: read files, depend on the Kubernetes API, or use unbounded memory for a small text.
//!
//! The documents are built from the parser's events instead of being decoded into [`serde_json::Value`], because only the
//! events carry lines, let scalars be read as `kubectl` reads them, and keep the beginning of a broken document.

mod build;
mod document;
mod lines;
mod scalar;

use build::Builder;
pub(super) use build::UNREADABLE;
pub(crate) use document::{Document, FlawKind};
use granit_parser::{Event, Parser, options};
pub use lines::Lines;

/// The largest number of documents in one text.
const MAX_DOCUMENTS: usize = 100_000;

/// Reads all documents of a text, except empty ones.
pub(super) fn documents(text: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = options! { emit_comments: false, emit_unresolved_aliases: true };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut documents = Vec::new();
    let mut builder = Builder::default();
    // The loop ends because each document ends once or fails once, and a failure skips text.
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
