//! Small files that outlive the agent.
//!
//! Must not: decide what a failure means.

use std::fs;
use std::io;
use std::path::Path;

/// Replaces a file as a whole, so that it holds the old or the new content after a crash.
///
/// # Errors
/// The content cannot be written, or the file not replaced.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, content)?;
    fs::rename(&temporary, path)
}
