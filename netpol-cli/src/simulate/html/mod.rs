//! A matrix or changes as one HTML file that loads nothing.
//!
//! In: tables with the reasons for their cells. Out: a page that a person can sort, filter and walk through with the keyboard, and
//! that is well-formed XML too. Every text from the input is escaped; the content security policy permits our style and script by
//! their hashes and nothing else. Must not: evaluate policies.

use std::collections::HashMap;
use std::io::{self, Write};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// SHA-256 of the style and of the script in base64, for the content security policy. A test compares them.
const STYLE_HASH: &str = "Lu/4P4Y+jU7i3btnnhPBjXo0pD0gxx+Jvs93ZB8Wf50=";
const SCRIPT_HASH: &str = "UDQjd3vt5J4aY8TwK5bvDWIWhjMszbPkgEFY2Zu0pC4=";

/// Texts that many cells share, each of them once.
#[derive(Debug, Default)]
pub(super) struct Details {
    texts: Vec<String>,
    numbers: HashMap<String, usize>,
}

impl Details {
    /// The number of a text.
    pub(super) fn number(&mut self, text: String) -> usize {
        if let Some(number) = self.numbers.get(&text) {
            return *number;
        }
        let number = self.texts.len();
        self.numbers.insert(text.clone(), number);
        self.texts.push(text);
        number
    }
}

/// The kinds of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Sources as rows, destinations as columns.
    Matrix,
    /// A row for each change.
    Changes,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Matrix => "matrix",
            Self::Changes => "changes",
        }
    }

    const fn legend(self) -> &'static str {
        match self {
            Self::Matrix => {
                "<span class=\"yes\">every port</span> <span class=\"some\">some</span> <span class=\"no\">none</span> \
                 of those that the destination declares"
            }
            Self::Changes => {
                "<span class=\"opens\">opens</span> <span class=\"closes\">closes</span>"
            }
        }
    }
}

/// A table that is written row by row.
pub(super) struct Page<'a> {
    out: &'a mut dyn Write,
    details: Details,
}

/// A cell of the table.
pub(super) struct Cell<'a> {
    /// A class of the style sheet.
    pub(super) class: &'static str,
    pub(super) text: &'a str,
    /// The number by which its column is sorted; `None` for the text.
    pub(super) order: Option<usize>,
    /// Why the cell is as it is.
    pub(super) reason: Option<String>,
}

impl<'a> Page<'a> {
    /// Writes the beginning of a page up to the first row.
    pub(super) fn begin<'n>(
        kind: Kind,
        (title, corner): (&str, &'n str),
        columns: impl Iterator<Item = &'n str>,
        out: &'a mut dyn Write,
    ) -> io::Result<Self> {
        let title = escaped(title);
        writeln!(
            out,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; \
             script-src 'sha256-{SCRIPT_HASH}'; base-uri 'none'; form-action 'none'\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n\
             <label>Filter <input type=\"search\" aria-label=\"Filter by name\"/></label>\n\
             <p class=\"legend\">{}</p>\n\
             <p class=\"keys\">Headings sort. Arrow keys move, / filters. The reason for a cell is at the bottom.</p>\n\
             </header>\n<main>\n<table data-kind=\"{}\">\n<thead><tr>",
            kind.legend(),
            kind.as_str()
        )?;
        for heading in [corner].into_iter().chain(columns) {
            write!(
                out,
                "<th scope=\"col\"><button type=\"button\">{}</button></th>",
                escaped(heading)
            )?;
        }
        writeln!(out, "</tr></thead>\n<tbody>")?;
        Ok(Self { out, details: Details::default() })
    }

    /// Writes a row that begins with a name, and has a class of the style sheet.
    pub(super) fn row<'c>(
        &mut self,
        (name, class): (&str, &'static str),
        cells: impl Iterator<Item = Cell<'c>>,
    ) -> io::Result<()> {
        write!(
            self.out,
            "<tr class=\"{class}\"><th scope=\"row\" tabindex=\"-1\">{}</th>",
            escaped(name)
        )?;
        for Cell { class, text, order, reason } in cells {
            write!(self.out, "<td class=\"{class}\" tabindex=\"-1\"")?;
            if let Some(order) = order {
                write!(self.out, " data-s=\"{order}\"")?;
            }
            if let Some(reason) = reason {
                write!(self.out, " data-d=\"{}\"", self.details.number(reason))?;
            }
            write!(self.out, ">{}</td>", escaped(text))?;
        }
        writeln!(self.out, "</tr>")
    }

    /// Writes the end of the page.
    pub(super) fn finish(self) -> io::Result<()> {
        let Self { out, details: Details { texts, numbers: _ } } = self;
        // An escaped letter is the same to JSON, and cannot end the element.
        let texts = serde_json::to_string(&texts)?
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026");
        writeln!(
            out,
            "</tbody>\n</table>\n</main>\n<footer aria-live=\"polite\"></footer>\n\
             <script type=\"application/json\" id=\"details\">{texts}</script>\n\
             <script>{SCRIPT}</script>\n</body>\n</html>"
        )
    }
}

/// Text for an element or a quoted attribute.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter if letter.is_control() && !letter.is_whitespace() => {
                escaped.extend(letter.escape_unicode());
            }
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// Base64 as of RFC 4648.
    fn base64(bytes: &[u8]) -> String {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let at = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
            let bits = at(0) << 16 | at(1) << 8 | at(2);
            for place in 0..4 {
                let letter = LETTERS[(bits >> (18 - 6 * place)) as usize & 63];
                text.push(if place > chunk.len() { '=' } else { char::from(letter) });
            }
        }
        text
    }

    #[test]
    fn the_policy_permits_our_style_and_our_script() {
        assert_eq!(base64(b"ab"), "YWI=");
        for (text, hash) in [(STYLE, STYLE_HASH), (SCRIPT, SCRIPT_HASH)] {
            assert_eq!(base64(&Sha256::digest(text.as_bytes())), hash);
        }
    }

    #[test]
    fn no_text_can_end_an_element_or_an_attribute() {
        let text = "</script><script>alert('\"&\u{0}')</script>";
        let mut out = Vec::new();
        let mut page =
            Page::begin(Kind::Matrix, ("t", text), [text].into_iter(), &mut out).unwrap();
        let cell = Cell { class: "yes", text, order: None, reason: Some(text.to_owned()) };
        page.row((text, ""), [cell].into_iter()).unwrap();
        page.finish().unwrap();
        let page = String::from_utf8(out).unwrap();
        let escaped =
            "&lt;/script&gt;&lt;script&gt;alert(&#39;&quot;&amp;\\u{0}&#39;)&lt;/script&gt;";
        assert_eq!(page.matches(escaped).count(), 4, "{page}");
        assert_eq!(page.matches("<script").count(), 2, "{page}");
        assert!(page.contains("[\"\\u003c/script\\u003e"), "{page}");
    }
}
