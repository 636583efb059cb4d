//! Retired words: none is used in code, output or documentation.
//!
//! `words.txt` has a rule a line: a regular expression of what is retired, what is said instead, and where the word has
//! another meaning. An expression is matched with each line as it is written and with its words told apart and in lower
//! case, so that `\bsweeps?\b` finds `sweep`, `sweep_maps`, `LastSweep` and `SWEEP`.

use std::fs;

use anyhow::{Context as _, Result};
use regex::Regex;

use crate::shell;

/// Whether `cargo xtask tidy` fails for a retired word when it is not asked to.
pub(crate) const ARE_ENFORCED: bool = false;

/// The files that are read, by how their names end.
const ENDINGS: [&str; 6] = [".rs", ".md", ".toml", ".yaml", ".yml", ".sh"];

/// What is not ours to word: recorded measurements.
const IGNORED: [&str; 1] = ["docs/benchmarks"];

/// A line of `words.txt`: `EXPRESSION => REPLACEMENT` or `EXPRESSION => REPLACEMENT unless EXPRESSION`.
struct Rule {
    retired: Regex,
    instead: String,
    /// A line in which it has another meaning, with its path before it: `PATH: LINE`.
    exception: Option<Regex>,
}

/// Checks the names and the lines of these files. The last findings say how often each word is used.
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
        let text = text.with_context(|| format!("reading {path}"))?;
        for (number, line) in std::iter::once(path.as_str()).chain(text.lines()).enumerate() {
            for (rule, count) in rules.iter().zip(&mut counts) {
                if rule.is_broken_by(path, line) {
                    *count += 1;
                    findings.push(format!("{path}:{number}: {} => {}", rule.retired, rule.instead));
                }
            }
        }
    }
    let used = rules.iter().zip(counts).filter(|(_, count)| *count > 0);
    findings.extend(used.map(|(rule, count)| format!("{} is used in {count} lines", rule.retired)));
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
    fn is_broken_by(&self, path: &str, line: &str) -> bool {
        let is_used = self.retired.is_match(line) || self.retired.is_match(&words_of(line));
        let is_excepted = |exception: &Regex| exception.is_match(&format!("{path}: {line}"));
        is_used && !self.exception.as_ref().is_some_and(is_excepted)
    }
}

/// The line with the words of its identifiers told apart, in lower case.
fn words_of(line: &str) -> String {
    let mut words = String::with_capacity(line.len() + 8);
    let mut was_lower = false;
    for c in line.chars() {
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
        for line in found {
            assert!(rule.is_broken_by("src/a.rs", line), "{line}");
        }
        for line in passed {
            assert!(!rule.is_broken_by("src/a.rs", line), "{line}");
        }
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
