//! Retired words, which must not be used in code, output, and documentation.
//!
//! `words.txt` has one rule per line: a regular expression for the retired word, its replacement, and an exception where the
//! word has another meaning. An expression is matched with each line as written, and with its identifiers split into words in
//! lower case, so that `\bsweeps?\b` finds `sweep`, `sweep_maps`, `LastSweep` and `SWEEP`.

use std::fs;

use anyhow::{Context as _, Result};
use regex::Regex;

use crate::shell;

/// The endings of the files to check.
const ENDINGS: [&str; 6] = [".rs", ".md", ".toml", ".yaml", ".yml", ".sh"];

/// Paths that are not checked: recorded measurements, and the examples in this file.
const IGNORED: [&str; 2] = ["docs/benchmarks", "xtask/src/words.rs"];

/// A line of `words.txt`: `EXPRESSION => REPLACEMENT` or `EXPRESSION => REPLACEMENT unless EXPRESSION`.
struct Rule {
    retired: Regex,
    instead: String,
    /// Matches `PATH: LINE` where the word has another meaning.
    exception: Option<Regex>,
}

/// Checks the names and lines of these files. The last findings are the number of uses of each word.
///
/// # Errors
/// A rule or a file can't be read.
pub(crate) fn check(files: &[String]) -> Result<Vec<String>> {
    let rules = rules(include_str!("../words.txt"))?;
    let mut findings = Vec::new();
    let mut counts = vec![0_usize; rules.len()];
    let is_read = |path: &&String| {
        ENDINGS.iter().any(|ending| path.ends_with(ending))
            && !IGNORED.iter().any(|start| path.starts_with(start))
    };
    for path in files.iter().filter(is_read) {
        let text = fs::read_to_string(shell::root().join(path));
        let text = format!("{path}\n{}", text.with_context(|| format!("reading {path}"))?);
        let words = words_of(&text);
        for (rule, count) in rules.iter().zip(&mut counts) {
            let found = rule.found(path, &text, &words);
            *count += found.len();
            findings.extend(found);
        }
    }
    let used = rules.iter().zip(counts).filter(|(_, count)| *count > 0);
    findings.extend(used.map(|(rule, count)| format!("{count} lines: {}", rule.retired)));
    Ok(findings)
}

fn rules(table: &str) -> Result<Vec<Rule>> {
    let lines = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| rule(line).with_context(|| format!("words.txt: {line}"))).collect()
}

fn rule(line: &str) -> Result<Rule> {
    let (retired, rest) = line.split_once(" => ").context("no =>")?;
    let (instead, exception) = match rest.split_once(" unless ") {
        Some((instead, exception)) => (instead, Some(Regex::new(exception)?)),
        None => (rest, None),
    };
    Ok(Rule { retired: Regex::new(retired)?, instead: instead.to_owned(), exception })
}

impl Rule {
    /// The lines of a text that break the rule; `words` is [`words_of`] the text. The first line is the path.
    fn found(&self, path: &str, text: &str, words: &str) -> Vec<String> {
        if !self.retired.is_match(text) && !self.retired.is_match(words) {
            return Vec::new();
        }
        let say = |(number, (line, words)): (usize, (&str, &str))| {
            let word = self.retired.find(line).or_else(|| self.retired.find(words))?.as_str();
            let exception = self.exception.as_ref();
            let is_excepted = exception.is_some_and(|it| it.is_match(&format!("{path}: {line}")));
            (!is_excepted).then(|| format!("{path}:{number}: `{word}`: {}", self.instead))
        };
        text.lines().zip(words.lines()).enumerate().filter_map(say).collect()
    }
}

/// The text with its identifiers split into words, in lower case.
fn words_of(text: &str) -> String {
    let mut words = String::with_capacity(text.len() + text.len() / 8);
    let mut was_lower = false;
    for c in text.chars() {
        if c.is_uppercase() && was_lower {
            words.push(' ');
        }
        was_lower = c.is_lowercase();
        words.extend(if c == '_' { ' ' } else { c }.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: &str, found: &[&str], passed: &[&str]) {
        let rule = super::rule(rule).unwrap();
        let text = [found, passed].concat().join("\n");
        let lines = rule.found("src/a.rs", &text, &words_of(&text));
        assert_eq!(lines.len(), found.len(), "{lines:?}");
        assert!(lines.iter().enumerate().all(|(n, line)| line.contains(&format!(":{n}: "))));
    }

    #[test]
    fn words_are_found_in_prose_and_in_identifiers() {
        let found = ["a sweep of", "sweep_maps()", "LastSweep", "SWEEP_LIMIT", "// Sweep"];
        check(r"\bsweeps?\b => garbage collection", &found, &["sweeper"]);
    }

    #[test]
    fn a_type_is_not_taken_for_a_word() {
        check(r"\bTurn\b => MapStateUpdate", &["struct Turn {"], &["in turn", "in_turn"]);
    }

    #[test]
    fn another_meaning_is_excepted_by_line_or_by_file() {
        let rule = r"\bimage\b => map state unless container image";
        check(rule, &["the image"], &["the container image"]);
        check(r"\bimage\b => map state unless ^src/a\.rs: ", &[], &["the image"]);
        check(r"\bimage\b => map state unless ^src/b\.rs: ", &["the image"], &[]);
    }

    #[test]
    fn the_table_is_read() {
        assert!(!rules(include_str!("../words.txt")).unwrap().is_empty());
        assert!(rule("no arrow").is_err());
    }
}
