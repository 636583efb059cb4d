//! Which build of netpol this program belongs to: the plugin and the agent of a node are of the same one.
//!
//! In: three variables of the compiler's environment, which `cargo xtask image` and `release` set. Out: texts. Must not: run git,
//! because each commit would then compile everything that depends on this crate again.

use std::sync::LazyLock;

/// The semantic version.
pub const VERSION: &str = match option_env!("NETPOL_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// The git revision of the checkout, with the ending `-dirty` if files differ from it; `None` for a build by cargo alone.
pub const REVISION: Option<&str> = option_env!("NETPOL_REVISION");

/// The page of the project, which `cargo xtask release` knows; `None` for another build.
pub const HOMEPAGE: Option<&str> = option_env!("NETPOL_HOMEPAGE");

/// The version for people: `0.1.0`, or `0.1.0 (1a2b3c4d5e6f)` if the revision is known.
pub fn version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| text(VERSION, REVISION));
    &TEXT
}

fn text(version: &str, revision: Option<&str>) -> String {
    match revision {
        Some(revision) => format!("{version} ({revision})"),
        None => version.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_follows_the_version_if_it_is_known() {
        assert_eq!(text("1.2.3", None), "1.2.3");
        assert_eq!(text("1.2.3", Some("1a2b3c4d5e6f-dirty")), "1.2.3 (1a2b3c4d5e6f-dirty)");
        assert!(version().starts_with(VERSION));
    }
}
