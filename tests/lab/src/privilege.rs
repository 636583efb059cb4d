//! Requirements of a test on the machine.
//!
//! In: needs. Out: whether they are met. A test whose needs are not met prints `SKIP: reason`; where it must run, it fails.

use std::path::Path;

use crate::tools;

/// A requirement that not every machine meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Permission to create namespaces and interfaces.
    Root,
    /// A program in `PATH`.
    Program(&'static str),
    /// A program that `cargo xtask setup` puts into the target folder.
    Tool(&'static str),
    /// A file, with the package that provides it.
    File {
        /// Its path.
        path: &'static str,
        /// The package or step that installs it.
        from: &'static str,
    },
}

impl Need {
    /// Why the need is not met; None if it is.
    fn reason(self) -> Option<String> {
        match self {
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "not root".into()),
            Self::Program(name) => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                let found = std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
                (!found).then(|| format!("no program {name}"))
            }
            Self::Tool(name) => tools::path(name).err().map(|error| error.to_string()),
            Self::File { path, from } => {
                (!Path::new(path).exists()).then(|| format!("no {path} (from {from})"))
            }
        }
    }
}

/// Whether the test can run. If not, the caller returns at once.
///
/// # Panics
/// A need is not met and `CI` or `NETPOL_REQUIRE_PRIVILEGES` is set, because a skipped test counts as failed there.
#[must_use]
#[expect(
    clippy::print_stdout,
    reason = "the reader of a test's output must see what was not tested"
)]
pub fn met(needs: &[Need]) -> bool {
    let reasons: Vec<String> = needs.iter().filter_map(|need| need.reason()).collect();
    if reasons.is_empty() {
        return true;
    }
    let reasons = reasons.join(", ");
    let must_run = ["CI", "NETPOL_REQUIRE_PRIVILEGES"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    assert!(!must_run, "cannot run here: {reasons}");
    println!("SKIP: {reasons}");
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_say_what_is_missing() {
        assert_eq!(Need::Program("sh").reason(), None);
        assert_eq!(Need::Program("nonexistent").reason(), Some("no program nonexistent".into()));
        let file = Need::File { path: "/nonexistent", from: "nowhere" };
        assert_eq!(file.reason(), Some("no /nonexistent (from nowhere)".into()));
    }
}
