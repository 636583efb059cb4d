//! The form of a file: its size, its module documentation and its names.

use super::source::{Finding, Severity, SourceFile};

/// Above this many lines without tests a file needs a reason.
const MANY_LINES: usize = 400;

/// Above this many it must be split.
const TOO_MANY_LINES: usize = 600;

/// Words that say nothing about what a module is for, or that name things otherwise than the vocabulary does.
const BANNED_WORDS: [&str; 17] = [
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "info",
    "data",
    "manager",
    "handler",
    "process",
    "target",
    "whitelist",
    "blacklist",
    "flag",
    "flags",
    "types",
    "misc",
];

/// Checks the length of a file.
pub(super) fn size(file: &SourceFile<'_>) -> Vec<Finding> {
    let n_lines = file.n_lines_without_tests();
    let (severity, message) = if n_lines > TOO_MANY_LINES {
        (
            Severity::Error,
            format!("{n_lines} lines without tests: above {TOO_MANY_LINES} it must be split"),
        )
    } else if n_lines > MANY_LINES {
        (
            Severity::Warning,
            format!("{n_lines} lines without tests: above {MANY_LINES} it needs a reason"),
        )
    } else {
        return Vec::new();
    };
    vec![file.finding(n_lines, severity, message)]
}

/// Checks that the file starts with the documentation of its module.
pub(super) fn module_docs(file: &SourceFile<'_>) -> Vec<Finding> {
    if file.text.starts_with("//!") {
        return Vec::new();
    }
    vec![file.finding(
        1,
        Severity::Error,
        "a module starts with `//!`: what comes in, what goes out, what it must not do",
    )]
}

/// Checks the names of the file, of its modules and of its functions.
pub(super) fn names(file: &SourceFile<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let stem = file.path.strip_suffix(".rs").unwrap_or(file.path);
    if let Some(word) = stem.split('/').find_map(banned_word) {
        findings.push(file.finding(1, Severity::Error, banned(word)));
    }
    let tokens = file.tokens();
    for (keyword, name) in tokens.iter().zip(tokens.iter().skip(1)) {
        match keyword.text {
            "mod" => {
                if let Some(word) = banned_word(name.text) {
                    findings.push(file.finding(name.line, Severity::Error, banned(word)));
                }
            }
            "fn" if name.text.starts_with("do_") => {
                findings.push(file.finding(name.line, Severity::Error, banned("do_")));
            }
            _ => {}
        }
    }
    findings
}

fn banned_word(name: &str) -> Option<&str> {
    name.split('_').find(|word| BANNED_WORDS.contains(word))
}

fn banned(word: &str) -> String {
    format!("`{word}` is banned as a name: say what it is for, in the words of the vocabulary")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        rule: fn(&SourceFile<'_>) -> Vec<Finding>,
        path: &str,
        text: &str,
        expected: &[(&str, Severity)],
    ) {
        let findings = rule(&SourceFile { package: "p", path, text });
        assert_eq!(findings.len(), expected.len(), "{findings:?}");
        for (finding, (part, severity)) in findings.iter().zip(expected) {
            assert!(finding.to_string().contains(part), "{finding}");
            assert_eq!(finding.severity, *severity);
        }
    }

    #[test]
    fn a_file_above_400_lines_is_told_and_above_600_fails() {
        check(size, "src/a.rs", &"fn a() {}\n".repeat(400), &[]);
        check(
            size,
            "src/a.rs",
            &"fn a() {}\n".repeat(401),
            &[("needs a reason", Severity::Warning)],
        );
        check(size, "src/a.rs", &"fn a() {}\n".repeat(601), &[("must be split", Severity::Error)]);
    }

    #[test]
    fn tests_do_not_count_for_the_size() {
        let text =
            format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn b() {}\n".repeat(700));
        check(size, "src/a.rs", &text, &[]);
    }

    #[test]
    fn a_file_without_module_docs_fails() {
        check(module_docs, "src/a.rs", "//! Doc.\n", &[]);
        check(module_docs, "src/a.rs", "use x;\n//! Doc.\n", &[("src/a.rs:1", Severity::Error)]);
        check(module_docs, "src/a.rs", "", &[("starts with", Severity::Error)]);
    }

    #[test]
    fn banned_words_fail_in_files_folders_and_modules() {
        check(names, "src/model/ports.rs", "mod names;", &[]);
        check(names, "src/utils.rs", "", &[("`utils`", Severity::Error)]);
        check(names, "src/data/mod.rs", "", &[("`data`", Severity::Error)]);
        check(names, "src/event_handler.rs", "", &[("`handler`", Severity::Error)]);
        check(names, "src/a.rs", "\nmod helpers {}", &[("src/a.rs:2: `helpers`", Severity::Error)]);
    }

    #[test]
    fn functions_do_not_do() {
        check(names, "src/a.rs", "fn do_compile() {}", &[("`do_`", Severity::Error)]);
        check(names, "src/a.rs", "fn dominant() { do_this(); }", &[]);
    }
}
