//! Paths in this repository.

use std::path::{Path, PathBuf};

/// The path of a file or folder of the repository, given from its root.
pub fn path(relative: impl AsRef<Path>) -> PathBuf {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR"));
    lab.ancestors().nth(2).unwrap_or(lab).join(relative)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_start_at_the_workspace() {
        assert!(path("Cargo.lock").is_file());
    }
}
