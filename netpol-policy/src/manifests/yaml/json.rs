//! The tokens of JSON, without the rules of YAML, which take most of the time that YAML needs.
//!
//! In: a text. Out: the places of its documents if it consists of JSON, and their tokens with positions. Must not: read a text that
//! [`documents`] has not accepted, or give JSON another meaning than the YAML reader does.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::IgnoredAny;

use super::lines::Position;

/// The line between two documents.
const SEPARATOR: &str = "---";

/// The places of the documents of a text that has only JSON objects and lists, one directly after the other or with lines `---`
/// between them; `None` for every other text. Nothing behind the first `limit` documents is looked at.
pub(super) fn documents(text: &str, limit: usize) -> Option<Vec<Range<usize>>> {
    let mut documents = Vec::new();
    let mut at = 0;
    while documents.len() < limit {
        let rest = text.get(at..)?;
        let found = rest.trim_start_matches(is_space);
        at = at.checked_add(rest.len().checked_sub(found.len())?)?;
        if found.is_empty() {
            break;
        }
        if found.starts_with(['{', '[']) {
            let mut values = serde_json::Deserializer::from_str(found).into_iter::<IgnoredAny>();
            values.next()?.ok()?;
            let end = at.checked_add(values.byte_offset())?;
            documents.push(at..end);
            at = end;
        } else {
            let after = found.strip_prefix(SEPARATOR)?;
            let is_at_line_start =
                text.get(..at)?.is_empty() || text.get(..at)?.ends_with(['\n', '\r']);
            if !is_at_line_start || !(after.is_empty() || after.starts_with(is_space)) {
                return None;
            }
            at = at.checked_add(SEPARATOR.len())?;
        }
    }
    (!documents.is_empty()).then_some(documents)
}

const fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r')
}

/// A token, without commas and colons, which say nothing more in a text that was checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// `[`
    OpenList,
    /// `{`
    OpenMapping,
    /// `]` or `}`
    Close,
    /// The content of a string.
    Text(Cow<'a, str>),
    /// A number, `true`, `false` or `null`.
    Plain(&'a str),
}

/// The tokens of the documents of a text.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    /// The documents after the present one.
    documents: std::vec::IntoIter<Range<usize>>,
    /// Where the present document ends in the text; `None` after the last one.
    end: Option<usize>,
    /// The place in the text up to which it was read, and the position there.
    at: usize,
    line: u32,
    column: u32,
    /// The last byte before that place, to count `\r\n` as one end of a line.
    was_return: bool,
}

impl<'a> Reader<'a> {
    /// A reader of documents that [`documents`] has found in the text.
    pub(super) fn new(text: &'a str, documents: Vec<Range<usize>>) -> Self {
        let mut reader = Self {
            text,
            documents: documents.into_iter(),
            end: None,
            at: 0,
            line: 1,
            column: 0,
            was_return: false,
        };
        reader.next_document();
        reader
    }

    /// Goes on with the document after the present one. Returns whether there is one.
    pub(super) fn next_document(&mut self) -> bool {
        let next = self.documents.next();
        self.end = next.as_ref().map(|document| document.end);
        if let Some(Range { start, end: _ }) = next {
            self.advance_to(start);
        }
        self.end.is_some()
    }

    /// Whether a document is being read, or ends here.
    pub(super) const fn is_in_document(&self) -> bool {
        self.end.is_some()
    }

    /// The next token of the present document; `None` at its end.
    pub(super) fn next_token(&mut self) -> Option<(Token<'a>, Position)> {
        let rest = self.text.get(self.at..self.end?)?;
        let is_between = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b':');
        let n_between = rest.bytes().take_while(|byte| is_between(byte)).count();
        self.advance_to(self.at.saturating_add(n_between));
        let position = Position::new(self.line, self.column);
        let rest = rest.get(n_between..)?;
        let (token, len_bytes) = match rest.as_bytes().first()? {
            b'[' => (Token::OpenList, 1),
            b'{' => (Token::OpenMapping, 1),
            b']' | b'}' => (Token::Close, 1),
            b'"' => {
                let quoted = quoted(rest.get(1..)?)?;
                let text =
                    if quoted.contains('\\') { unescaped(quoted).into() } else { quoted.into() };
                (Token::Text(text), quoted.len().saturating_add(2))
            }
            _ => {
                let is_end = |c: char| is_space(c) || matches!(c, ',' | ']' | '}');
                let plain = rest.split(is_end).next()?;
                (Token::Plain(plain), plain.len())
            }
        };
        self.advance_to(self.at.saturating_add(len_bytes));
        Some((token, position))
    }

    /// Moves to a later place. Ends of lines are those of YAML.
    fn advance_to(&mut self, place: usize) {
        let passed = self.text.as_bytes().get(self.at..place).unwrap_or_default();
        for byte in passed {
            match byte {
                b'\n' if self.was_return => {}
                b'\n' | b'\r' => {
                    self.line = self.line.saturating_add(1);
                    self.column = 0;
                }
                // The further bytes of a character.
                0x80..=0xBF => {}
                _ => self.column = self.column.saturating_add(1),
            }
            self.was_return = *byte == b'\r';
        }
        self.at = place;
    }
}

/// The text up to the next quotation mark that no backslash escapes.
fn quoted(text: &str) -> Option<&str> {
    let mut is_escaped = false;
    let end = text.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })?;
    text.get(..end)
}

/// A string without its escapes. A half of a surrogate pair becomes U+FFFD, as in `kubectl`.
fn unescaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        result.push_str(before);
        let mut after = after.chars();
        let (character, n_more) = match after.next() {
            Some('b') => ('\u{8}', 0),
            Some('f') => ('\u{c}', 0),
            Some('n') => ('\n', 0),
            Some('r') => ('\r', 0),
            Some('t') => ('\t', 0),
            Some('u') => unicode(after.as_str()),
            Some(other) => (other, 0),
            None => break,
        };
        result.push(character);
        rest = after.as_str().get(n_more..).unwrap_or_default();
    }
    result.push_str(rest);
    result
}

/// The character of `XXXX` or `XXXX\uXXXX`, and the length of that.
fn unicode(digits: &str) -> (char, usize) {
    let unit = |from: usize| {
        let digits = digits.get(from..from.saturating_add(4))?;
        u16::from_str_radix(digits, 16).ok()
    };
    let first = unit(0).unwrap_or(0xD800);
    let second = digits.get(4..6).filter(|text| *text == "\\u").and_then(|_| unit(6));
    let is_pair = matches!(first, 0xD800..=0xDBFF) && matches!(second, Some(0xDC00..=0xDFFF));
    let units = [first].into_iter().chain(second.filter(|_| is_pair));
    let character = char::decode_utf16(units).next().and_then(Result::ok);
    (character.unwrap_or(char::REPLACEMENT_CHARACTER), if is_pair { 10 } else { 4 })
}
