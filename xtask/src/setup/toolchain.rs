//! The pinned toolchain's components and targets, as `rust-toolchain.toml` lists them.
//!
//! rustup installs them by itself only where `RUSTUP_AUTO_INSTALL` allows it, so they are added here.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::{shell, workspace::string_list};

/// Adds the components and targets that the active toolchain lacks.
///
/// # Errors
/// `rust-toolchain.toml` can't be read, rustup is not installed, or rustup could not add a part.
pub(super) fn ensure() -> Result<()> {
    let file = shell::root().join("rust-toolchain.toml");
    let context = || format!("reading {}", file.display());
    let pin = fs::read_to_string(&file).with_context(context)?;
    let components = string_list(&pin, "components").with_context(context)?;
    let targets = string_list(&pin, "targets").with_context(context)?;
    if shell::find_program("rustup").is_none() {
        bail!(
            "rustup is missing: install it (https://rustup.rs), then run this again with components {} and targets {}",
            components.join(", "),
            targets.join(", ")
        );
    }
    let installed =
        shell::stdout(shell::command("rustup").args(["component", "list", "--installed"]))?;
    add("component", &without(&installed, &components, ""))?;
    add("target", &without(&installed, &targets, "rust-std-"))
}

/// Whether a target is installed.
///
/// # Errors
/// rustup is missing, or fails.
pub(super) fn has_target(target: &str) -> Result<bool> {
    let installed =
        shell::stdout(shell::command("rustup").args(["component", "list", "--installed"]))?;
    Ok(without(&installed, &[target.to_owned()], "rust-std-").is_empty())
}

/// Adds a target.
///
/// # Errors
/// rustup has no such target, or could not add it.
pub(super) fn ensure_target(target: &str) -> Result<()> {
    let installed =
        shell::stdout(shell::command("rustup").args(["component", "list", "--installed"]))?;
    add("target", &without(&installed, &[target.to_owned()], "rust-std-"))
}

/// The wanted parts that are not installed. rustup lists installed parts one per line, most with `-` and the host as suffix.
fn without(installed: &str, wanted: &[String], prefix: &str) -> Vec<String> {
    let has = |part: &str| {
        let name = format!("{prefix}{part}");
        installed.lines().any(|line| {
            line.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    };
    wanted.iter().filter(|part| !has(part)).cloned().collect()
}

fn add(kind: &str, parts: &[String]) -> Result<()> {
    if parts.is_empty() {
        return Ok(());
    }
    let label = format!("adding to the Rust toolchain: {}", parts.join(", "));
    shell::step(&label, shell::command("rustup").args([kind, "add"]).args(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_installed_is_added() {
        let installed = "clippy-x86_64-unknown-linux-gnu\nrust-std-x86_64-unknown-linux-gnu\nrustfmt-x86_64-unknown-linux-gnu\n";
        let wanted = ["rust-src", "clippy"].map(str::to_owned);
        assert_eq!(without(installed, &wanted, ""), ["rust-src"]);
        let wanted = ["x86_64-unknown-linux-gnu", "x86_64-unknown-linux-musl"].map(str::to_owned);
        assert_eq!(without(installed, &wanted, "rust-std-"), ["x86_64-unknown-linux-musl"]);
    }
}
