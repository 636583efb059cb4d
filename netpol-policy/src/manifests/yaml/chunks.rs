//! A large text, cut between its documents, so that several threads can read it.
//!
//! In: a text. Out: chunks that have the same documents, one after the other, at the same positions. Must not: cut a document, also not
//! one that is not valid.

use std::ops::Range;

use memchr::memmem;

use super::{MAX_DOCUMENTS, json};

/// The smallest text that is cut, bytes. A smaller one is read in about 10 ms, and a thread starts in less than one.
const MIN_LEN: usize = if cfg!(test) { 1 } else { 1 << 17 };

/// Begins a document, at the beginning of a line.
const MARKER: &str = "---";

/// A text, or a part of one that begins with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::manifests) struct Chunk<'a> {
    pub(super) text: &'a str,
    /// The number of lines of the text before it.
    pub(super) n_lines_before: u32,
    /// The places of its documents if the whole text is JSON.
    pub(super) json: Option<Vec<Range<usize>>>,
}

impl<'a> Chunk<'a> {
    /// A whole text.
    pub(in crate::manifests) fn whole(text: &'a str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let json = json::documents(text, MAX_DOCUMENTS.saturating_add(1));
        Self { text, n_lines_before: 0, json }
    }

    /// Cuts before the first document that begins behind `target` bytes.
    fn cut(&self, target: usize) -> Option<(Self, Self)> {
        let Self { text, n_lines_before, json: _ } = *self;
        let bytes = text.as_bytes();
        let behind = bytes.get(target..)?;
        let at = memmem::find_iter(behind, "\n---").find_map(|found| {
            let at = target.checked_add(found)?.checked_add(1)?;
            let next = bytes.get(at.checked_add(MARKER.len())?);
            next.is_none_or(|next| matches!(next, b' ' | b'\t' | b'\n')).then_some(at)
        })?;
        let n_lines = memchr::memchr_iter(b'\n', bytes.get(..at)?).count();
        let n_lines_before_rest = n_lines_before.checked_add(u32::try_from(n_lines).ok()?)?;
        // With the marker, because what ends a document shows in the positions and the errors at its end. The empty document behind
        // it does not count.
        let end = at.checked_add(MARKER.len())?;
        Some((
            Self { text: text.get(..end)?, n_lines_before, json: None },
            Self { text: text.get(at..)?, n_lines_before: n_lines_before_rest, json: None },
        ))
    }
}

/// Cuts a text into at most `n_wanted` chunks of about the same length.
///
/// A line that begins with `---` begins a document, whatever is above it: YAML 1.2.2, 9.1.2, forbids such a line within the content of
/// one, and the parser goes on there after a syntax error.
pub(in crate::manifests) fn chunks(text: &str, n_wanted: usize) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let mut rest = Chunk::whole(text);
    // JSON has a reader that is fast enough.
    if n_wanted > 1 && rest.json.is_none() && can_be_cut(rest.text) {
        for n_left in (2..=n_wanted).rev() {
            let target = rest.text.len().checked_div(n_left).unwrap_or_default();
            let Some((before, after)) = rest.cut(target) else { break };
            chunks.push(before);
            rest = after;
        }
    }
    chunks.push(rest);
    chunks
}

/// Whether the documents of a text do not depend on those before them.
fn can_be_cut(text: &str) -> bool {
    let bytes = text.as_bytes();
    // Directives belong to the document after them, and a return alone ends a line too.
    let has = |needle: &str| memmem::find(bytes, needle.as_bytes()).is_some();
    text.len() >= MIN_LEN
        && !text.starts_with('%')
        && !has("\n%")
        && !has("\r")
        && memmem::find_iter(bytes, "\n---").nth(MAX_DOCUMENTS.saturating_sub(1)).is_none()
}
