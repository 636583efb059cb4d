//! Writes the results of expectations: text, `JUnit` XML or TAP.
//!
//! In: results. Out: text in which no name or message can end an element or a line. Must not: evaluate policies.

use std::io::{self, Write};

use super::check::Outcome;
use super::coverage::Coverage;

/// The results of one file.
#[derive(Debug)]
pub(super) struct FileReport {
    pub(super) path: String,
    pub(super) cases: Vec<CaseReport>,
}

/// The result of one expectation.
#[derive(Debug)]
pub(super) struct CaseReport {
    /// The expectation as written.
    pub(super) name: String,
    pub(super) line: u64,
    pub(super) outcome: Outcome,
}

impl CaseReport {
    const fn is_failed(&self) -> bool {
        self.outcome.n_failed > 0
    }

    /// A line for each reported connection, and one with the number of the others.
    fn messages(&self) -> Vec<String> {
        let Outcome { failures, n_failed, n_pairs } = &self.outcome;
        let n_others = n_failed.saturating_sub(failures.len());
        let others =
            (n_others > 0).then(|| format!("and {n_others} more of {n_pairs} connections"));
        failures.iter().cloned().chain(others).collect()
    }
}

/// Number of expectations, and of those that failed.
pub(super) fn totals(files: &[FileReport]) -> (usize, usize) {
    let cases = || files.iter().flat_map(|file| &file.cases);
    (cases().count(), cases().filter(|case| case.is_failed()).count())
}

pub(super) fn write_text(
    files: &[FileReport],
    coverage: &Coverage,
    out: &mut dyn Write,
) -> io::Result<()> {
    for FileReport { path, cases } in files {
        writeln!(out, "{path}")?;
        for case in cases {
            let CaseReport { name, line, outcome: _ } = case;
            if case.is_failed() {
                writeln!(out, "  FAIL {name} (line {line})")?;
            } else {
                writeln!(out, "  ok   {name}")?;
            }
            for message in case.messages() {
                writeln!(out, "       {message}")?;
            }
        }
    }
    let (n_all, n_failed) = totals(files);
    let expectations = if n_all == 1 { "expectation" } else { "expectations" };
    writeln!(out, "{n_all} {expectations}: {} passed, {n_failed} failed", n_all - n_failed)?;
    let missing = coverage.missing();
    if !missing.is_empty() {
        writeln!(out, "no expectation exercises")?;
        for line in missing {
            writeln!(out, "  {line}")?;
        }
    }
    writeln!(out, "{}", coverage_in_words(coverage))
}

fn coverage_in_words(coverage: &Coverage) -> String {
    let (n_exercised, n_all) = coverage.totals();
    format!("coverage: {n_exercised} of {n_all} rules and isolations ({} %)", coverage.percent())
}

/// TAP version 14.
pub(super) fn write_tap(
    files: &[FileReport],
    coverage: &Coverage,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "TAP version 14\n1..{}", totals(files).0)?;
    let cases = files.iter().flat_map(|file| file.cases.iter().map(move |case| (file, case)));
    for (number, (FileReport { path, cases: _ }, case)) in (1..).zip(cases) {
        let result = if case.is_failed() { "not ok" } else { "ok" };
        let name = case.name.replace('\\', "\\\\").replace('#', "\\#");
        writeln!(out, "{result} {number} - {}", on_one_line(&name))?;
        if case.is_failed() {
            writeln!(out, "  ---")?;
            writeln!(out, "  at: {}", quoted(&format!("{path}:{}", case.line)))?;
            writeln!(out, "  connections:")?;
            for message in case.messages() {
                writeln!(out, "    - {}", quoted(&message))?;
            }
            writeln!(out, "  ...")?;
        }
    }
    for line in coverage.missing() {
        writeln!(out, "# not exercised: {}", on_one_line(&line))?;
    }
    writeln!(out, "# {}", coverage_in_words(coverage))
}

fn on_one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// A double-quoted scalar of YAML, which JSON's strings are.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// XML as `JUnit` writes it: a suite for each file, a case for each expectation.
pub(super) fn write_junit(
    files: &[FileReport],
    coverage: &Coverage,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (n_all, n_failed) = totals(files);
    writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    writeln!(out, "<testsuites name=\"netpol\" tests=\"{n_all}\" failures=\"{n_failed}\">")?;
    for FileReport { path, cases } in files {
        let path = in_xml(path);
        let n_failed = cases.iter().filter(|case| case.is_failed()).count();
        writeln!(
            out,
            "  <testsuite name=\"{path}\" tests=\"{}\" failures=\"{n_failed}\" errors=\"0\" skipped=\"0\">",
            cases.len()
        )?;
        writeln!(
            out,
            "    <properties><property name=\"coverage\" value=\"{}\"/></properties>",
            coverage.percent()
        )?;
        for case in cases {
            let name = in_xml(&case.name);
            write!(
                out,
                "    <testcase name=\"{name}\" classname=\"{path}\" file=\"{path}\" line=\"{}\"",
                case.line
            )?;
            let messages = case.messages();
            let Some(first) = messages.first() else {
                writeln!(out, "/>")?;
                continue;
            };
            writeln!(out, ">")?;
            let all = in_xml(&messages.join("\n"));
            writeln!(
                out,
                "      <failure message=\"{}\" type=\"verdict\">{all}</failure>",
                in_xml(first)
            )?;
            writeln!(out, "    </testcase>")?;
        }
        writeln!(out, "  </testsuite>")?;
    }
    writeln!(out, "</testsuites>")
}

/// Text for an attribute or an element. XML 1.0 has no control characters, not even escaped ones.
fn in_xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(letter),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => {
                escaped.extend(letter.escape_unicode());
            }
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: fn(&[FileReport], &Coverage, &mut dyn Write) -> io::Result<()>) -> String {
        let outcome =
            Outcome { failures: vec!["a -> b:\n\"<\u{1b}&\"".to_owned()], n_failed: 3, n_pairs: 4 };
        let case = CaseReport { name: "a -> b # <\"&>\\".to_owned(), line: 3, outcome };
        let file = FileReport { path: "x&.yaml".to_owned(), cases: vec![case] };
        let mut out = Vec::new();
        write(&[file], &Coverage::default(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn names_and_messages_are_escaped() {
        let junit = written(write_junit);
        assert!(junit.contains("name=\"a -&gt; b # &lt;&quot;&amp;&gt;\\\""), "{junit}");
        assert!(junit.contains("a -&gt; b:\n&quot;&lt;\\u{1b}&amp;&quot;\nand 2 more"), "{junit}");
        let tap = written(write_tap);
        assert!(tap.contains("not ok 1 - a -> b \\# <\"&>\\\\\n"), "{tap}");
        assert!(tap.contains("    - \"a -> b:\\n\\\"<\\u001b&\\\"\"\n"), "{tap}");
    }
}
