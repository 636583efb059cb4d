//! The git revision of the checkout, which programs of an image and of a release name in their version.
//!
//! In: what git says. Out: text and a time. A folder that is no checkout has neither.

use anyhow::{Context as _, Result};

use crate::shell;

/// Hexadecimal digits of a short revision: enough for a repository of any size, and the same on every machine.
const DIGITS: usize = 12;

/// The variable with which `netpol-proto` is compiled.
pub(crate) const VARIABLE: &str = "NETPOL_REVISION";

/// A commit, and whether the files differ from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Revision {
    /// The whole hash of the commit.
    pub(crate) commit: String,
    /// Seconds between 1970 and the commit.
    pub(crate) time_s: u64,
    /// A tracked file was changed after the commit.
    pub(crate) is_dirty: bool,
}

impl Revision {
    /// The revision of the checkout; `None` outside a checkout or without git.
    ///
    /// # Errors
    /// git prints something else than it documents.
    pub(crate) fn read() -> Result<Option<Self>> {
        let git = |args: &[&str]| {
            // The checkout may belong to another user.
            shell::stdout(shell::command("git").args(["-c", "safe.directory=*"]).args(args))
        };
        let Ok(head) = git(&["log", "-1", "--format=%H %ct"]) else { return Ok(None) };
        let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
        Self::parse(&head, &changes).map(Some)
    }

    fn parse(head: &str, changes: &str) -> Result<Self> {
        let (commit, time) = head.trim().split_once(' ').context("git log printed no commit")?;
        let time_s = time.parse().with_context(|| format!("the time of {commit}"))?;
        Ok(Self { commit: commit.to_owned(), time_s, is_dirty: !changes.trim().is_empty() })
    }

    /// The form that `--version` prints.
    pub(crate) fn short(&self) -> String {
        let start = self.commit.get(..DIGITS).unwrap_or(&self.commit);
        format!("{start}{}", if self.is_dirty { "-dirty" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_checkout_is_called_dirty() {
        let head = "0123456789abcdef0123456789abcdef01234567 1700000000\n";
        let clean = Revision::parse(head, "").unwrap();
        assert_eq!((clean.short().as_str(), clean.time_s), ("0123456789ab", 1_700_000_000));
        let dirty = Revision::parse(head, " M README.md\n").unwrap();
        assert_eq!(dirty.short(), "0123456789ab-dirty");
        assert!(Revision::parse("", "").is_err());
    }
}
