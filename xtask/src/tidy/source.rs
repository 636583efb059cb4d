//! A source file of the workspace, as the checks see it, and what they find.

use std::fmt;

use super::lexer::{Token, tokens};

/// A Rust source file.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourceFile<'a> {
    /// Name of its package.
    pub(super) package: &'a str,
    /// Path inside the package's folder, such as `src/model/mod.rs`.
    pub(super) path: &'a str,
    /// Its text.
    pub(super) text: &'a str,
}

impl<'a> SourceFile<'a> {
    /// The names of the modules that lead to this file, without the crate's root: `src/model/mod.rs`
    /// is `model`. Empty for a crate's root and for what is outside `src`.
    pub(super) fn module_path(&self) -> Vec<&'a str> {
        let Some(path) = self.path.strip_prefix("src/") else { return Vec::new() };
        let path = path.strip_suffix(".rs").unwrap_or(path);
        let mut names: Vec<_> = path.split('/').collect();
        if names.last().is_some_and(|name| matches!(*name, "mod" | "lib" | "main")) {
            names.pop();
        }
        names
    }

    /// All tokens.
    pub(super) fn tokens(&self) -> Vec<Token<'a>> {
        tokens(self.text)
    }

    /// The tokens before `#[cfg(test)] mod tests`; none when the whole file is a module of tests.
    pub(super) fn tokens_without_tests(&self) -> Vec<Token<'a>> {
        let mut tokens = self.tokens();
        if self.module_path().contains(&"tests") {
            tokens.clear();
        } else if let Some(start) = start_of_tests(&tokens) {
            tokens.truncate(start);
        }
        tokens
    }

    /// Number of lines before the tests.
    pub(super) fn n_lines_without_tests(&self) -> usize {
        let tokens = self.tokens();
        let start = start_of_tests(&tokens).and_then(|index| tokens.get(index));
        start.map_or_else(|| self.text.lines().count(), |token| token.line.saturating_sub(1))
    }

    /// A finding in this file.
    pub(super) fn finding(
        &self,
        line: usize,
        severity: Severity,
        message: impl Into<String>,
    ) -> Finding {
        let place = format!("{}/{}:{line}", self.package, self.path);
        Finding { place, severity, message: message.into() }
    }
}

/// Index of the `#` of `#[cfg(test)] mod`.
fn start_of_tests(tokens: &[Token<'_>]) -> Option<usize> {
    const START: [&str; 8] = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    tokens.windows(START.len()).position(|window| window.iter().map(|token| token.text).eq(START))
}

/// Whether a finding makes `tidy` fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// It is told.
    Warning,
    /// It fails.
    Error,
}

/// Something that breaks a rule of the code base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// The file, and the line where there is one.
    pub(super) place: String,
    /// Whether it fails.
    pub(super) severity: Severity,
    /// What the rule is and how it was broken.
    pub(super) message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &'static str, text: &'static str) -> SourceFile<'static> {
        SourceFile { package: "p", path, text }
    }

    #[test]
    fn module_paths_follow_the_folders() {
        assert_eq!(file("src/model/mod.rs", "").module_path(), ["model"]);
        assert_eq!(file("src/model/names.rs", "").module_path(), ["model", "names"]);
        assert!(file("src/lib.rs", "").module_path().is_empty());
        assert!(file("tests/netns.rs", "").module_path().is_empty());
    }

    #[test]
    fn tests_at_the_end_do_not_count() {
        let file = file("src/a.rs", "fn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n");
        assert_eq!(file.n_lines_without_tests(), 2);
        assert!(file.tokens_without_tests().iter().all(|token| token.text != "b"));
    }

    #[test]
    fn an_item_for_tests_only_does_not_end_the_code() {
        let file = file("src/a.rs", "#[cfg(test)]\nuse x::y;\nfn a() {}\n");
        assert_eq!(file.n_lines_without_tests(), 3);
    }

    #[test]
    fn a_file_of_tests_is_all_tests() {
        assert!(file("src/model/tests.rs", "use crate::agent;").tokens_without_tests().is_empty());
    }
}
