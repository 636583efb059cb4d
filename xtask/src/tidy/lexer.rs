//! Rust source as a list of words and signs, without comments, strings and characters.
//!
//! Just enough of a lexer that a check is not misled by a word in a comment or a string.

use std::{iter::Peekable, str::CharIndices};

/// An identifier, keyword or number, `::`, or any other sign as one character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    /// As it is written.
    pub(super) text: &'a str,
    /// Its line, from 1.
    pub(super) line: usize,
}

/// Splits source text into tokens. Text that is no Rust yields some tokens, never an error.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut lexer =
        Lexer { text, chars: text.char_indices().peekable(), line: 1, tokens: Vec::new() };
    while let Some((start, c)) = lexer.next() {
        lexer.read(start, c);
    }
    lexer.tokens
}

struct Lexer<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
    line: usize,
    tokens: Vec<Token<'a>>,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<(usize, char)> {
        let next = self.chars.next();
        if matches!(next, Some((_, '\n'))) {
            self.line += 1;
        }
        next
    }

    /// Offset of the next character, or the text's end.
    fn offset(&mut self) -> usize {
        self.chars.peek().map_or(self.text.len(), |&(offset, _)| offset)
    }

    fn rest(&mut self) -> &str {
        let offset = self.offset();
        self.text.get(offset..).unwrap_or_default()
    }

    fn push(&mut self, start: usize, line: usize) {
        let end = self.offset();
        if let Some(text) = self.text.get(start..end) {
            self.tokens.push(Token { text, line });
        }
    }

    fn read(&mut self, start: usize, c: char) {
        let line = self.line;
        match c {
            _ if c.is_whitespace() => {}
            '/' if self.rest().starts_with('/') => self.skip_while(|c| c != '\n'),
            '/' if self.rest().starts_with('*') => self.skip_block_comment(),
            '"' => self.skip_string(),
            '\'' => self.skip_character_or_lifetime(),
            _ if is_word(c) => {
                self.skip_while(is_word);
                let is_raw_prefix =
                    matches!(self.text.get(start..self.offset()), Some("r" | "br" | "cr"));
                match self.raw_string_hashes() {
                    Some(n_hashes) if is_raw_prefix => self.skip_raw_string(n_hashes),
                    Some(_) | None => self.push(start, line),
                }
            }
            ':' if self.rest().starts_with(':') => {
                self.next();
                self.push(start, line);
            }
            _ => self.push(start, line),
        }
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        while self.chars.peek().is_some_and(|&(_, c)| wanted(c)) {
            self.next();
        }
    }

    fn skip_block_comment(&mut self) {
        self.next();
        let (mut depth, mut previous) = (1_usize, ' ');
        while let Some((_, c)) = self.next() {
            match (previous, c) {
                ('/', '*') => depth += 1,
                ('*', '/') => depth -= 1,
                (_, _) => {
                    previous = c;
                    continue;
                }
            }
            if depth == 0 {
                return;
            }
            previous = ' ';
        }
    }

    fn skip_string(&mut self) {
        while let Some((_, c)) = self.next() {
            match c {
                '\\' => drop(self.next()),
                '"' => return,
                _ => {}
            }
        }
    }

    /// A quote starts a character when it holds one character or an escape, else a lifetime.
    fn skip_character_or_lifetime(&mut self) {
        let mut rest = self.rest().chars();
        match (rest.next(), rest.next()) {
            (Some('\\'), _) => {
                self.next();
                self.next();
                self.skip_while(|c| c != '\'');
                self.next();
            }
            (Some(_), Some('\'')) => {
                self.next();
                self.next();
            }
            (_, _) => {}
        }
    }

    /// Number of `#` before the quote when a raw string's text starts here.
    fn raw_string_hashes(&mut self) -> Option<usize> {
        let rest = self.rest();
        let n_hashes = rest.chars().take_while(|&c| c == '#').count();
        (rest.chars().nth(n_hashes) == Some('"')).then_some(n_hashes)
    }

    fn skip_raw_string(&mut self, n_hashes: usize) {
        let end = format!("\"{}", "#".repeat(n_hashes));
        for _ in 0..=n_hashes {
            self.next();
        }
        while !self.rest().starts_with(&end) && self.next().is_some() {}
        for _ in 0..=n_hashes {
            self.next();
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let found: Vec<_> = tokens(text).iter().map(|token| token.text).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn paths_are_words_and_double_colons() {
        check("use crate::{a, b_2};", &["use", "crate", "::", "{", "a", ",", "b_2", "}", ";"]);
    }

    #[test]
    fn comments_hold_no_tokens() {
        check("a // unsafe\n/* x /* unsafe */ y */ b", &["a", "b"]);
    }

    #[test]
    fn strings_hold_no_tokens() {
        check(
            r##"f("un\"safe", r#"a " b"#, b"x", r"\") g"##,
            &["f", "(", ",", ",", "b", ",", ")", "g"],
        );
    }

    #[test]
    fn lifetimes_are_not_taken_for_characters() {
        check("<'a> '\\'' 'x' '\\u{1F}' y", &["<", "a", ">", "y"]);
    }

    #[test]
    fn raw_identifiers_are_words() {
        check("r#type", &["r", "#", "type"]);
    }

    #[test]
    fn lines_are_counted_across_comments_and_strings() {
        let found = tokens("a\n/* \n */ \"\n\" b");
        assert_eq!(found.last(), Some(&Token { text: "b", line: 4 }));
    }

    #[test]
    fn an_unfinished_string_ends_with_the_text() {
        check("a \"b", &["a"]);
        check("a r#\"b", &["a"]);
        check("a /* b", &["a"]);
    }
}
