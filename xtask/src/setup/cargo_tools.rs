//! Programs that cargo installs: bpf-linker, cargo-nextest, and tools of single commands.

use anyhow::{Result, bail};

use crate::{shell, term};

/// Debian's and Ubuntu's folder of LLVM 22. bpf-linker's LLVM must be able to read the
/// bitcode of the pinned rustc, so both are of one major version.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// A program from crates.io.
pub(super) struct Tool {
    /// Name of its package.
    pub(super) krate: &'static str,
    /// Name of the program.
    program: &'static str,
    /// The version to install if it is missing or too old.
    version: (u64, u64, u64),
    /// The oldest supported version.
    oldest: (u64, u64, u64),
    /// More arguments for `cargo install`.
    args: &'static [&'static str],
    /// Expected compilation time.
    takes: &'static str,
}

/// Links the eBPF programs; called by build scripts through rustc.
pub(super) const BPF_LINKER: Tool = Tool {
    krate: "bpf-linker",
    program: "bpf-linker",
    version: (0, 13, 0),
    oldest: (0, 13, 0),
    args: &["--no-default-features", "--features", "llvm-22"],
    takes: "a minute or two",
};

/// Runs each test in its own process, as the tests with network namespaces need.
pub(super) const NEXTEST: Tool = Tool {
    krate: "cargo-nextest",
    program: "cargo-nextest",
    version: (0, 9, 143),
    // The first with `default-filter` and `--no-tests`.
    oldest: (0, 9, 84),
    // Not optimised, which compiles in a third of the time; its own work is small.
    args: &[
        "--no-default-features",
        "--features",
        "default-no-update",
        "--debug",
        "--config",
        "profile.dev.debug=false",
    ],
    takes: "two to five minutes",
};

/// Runs libFuzzer.
pub(super) const FUZZ: Tool = Tool {
    krate: "cargo-fuzz",
    program: "cargo-fuzz",
    version: (0, 13, 1),
    oldest: (0, 12, 0),
    args: &["--debug"],
    takes: "a minute",
};

/// Checks the dependencies against `deny.toml`.
pub(super) const DENY: Tool = Tool {
    krate: "cargo-deny",
    program: "cargo-deny",
    version: (0, 20, 2),
    oldest: (0, 18, 0),
    args: &["--debug", "--config", "profile.dev.debug=false"],
    takes: "two to five minutes",
};

impl Tool {
    /// Version of the program that `PATH` finds; `None` when it is missing, broken or too old.
    pub(super) fn installed_version(&self) -> Option<String> {
        let program = shell::find_program(self.program)?;
        let output = shell::stdout(shell::command(program).arg("--version")).ok()?;
        let version = output.split_whitespace().nth(1)?;
        (parse(version)? >= self.oldest).then(|| version.to_owned())
    }

    /// Installs the program when it is missing or too old.
    ///
    /// # Errors
    /// `cargo install` failed, or put the program into a folder that is not in `PATH`.
    pub(super) fn ensure(&self) -> Result<()> {
        if self.installed_version().is_some() {
            return Ok(());
        }
        let label = format!("compiling {} {} ({})", self.krate, self.wanted(), self.takes);
        let mut install = shell::cargo(self.install_args());
        // This build is for the host, so the environment of another build must not affect it.
        for name in
            ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"]
        {
            install.env_remove(name);
        }
        shell::step(&label, install.env("LLVM_PREFIX", LLVM_PREFIX))?;
        if self.installed_version().is_none() {
            bail!("{} was installed but can't be run: is cargo's bin folder in PATH?", self.krate);
        }
        term::good(&format!("{} {} installed", self.krate, self.wanted()));
        Ok(())
    }

    /// The command that a person would type on a system of another kind.
    pub(super) fn by_hand(&self) -> String {
        format!("LLVM_PREFIX=(where LLVM 22 is) cargo {}", self.install_args().join(" "))
    }

    fn wanted(&self) -> String {
        let (major, minor, patch) = self.version;
        format!("{major}.{minor}.{patch}")
    }

    fn install_args(&self) -> Vec<String> {
        let fixed = ["install", self.krate, "--version", &self.wanted(), "--locked", "--force"]
            .map(str::to_owned);
        fixed.into_iter().chain(self.args.iter().map(ToString::to_string)).collect()
    }
}

/// Parses `major.minor.patch`, ignoring a pre-release or build part.
fn parse(version: &str) -> Option<(u64, u64, u64)> {
    let release = version.split(['-', '+']).next()?;
    let mut numbers = release.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(parse("0.9.143") > parse("0.9.84"));
        assert_eq!(parse("0.13.0-rc.1"), Some((0, 13, 0)));
        assert_eq!(parse("(60fa45f63"), None);
    }

    #[test]
    fn a_missing_program_has_no_version() {
        let tool = Tool { program: "no-such-program", ..NEXTEST };
        assert_eq!(tool.installed_version(), None);
    }

    #[test]
    fn the_linkers_llvm_is_that_of_the_pinned_compiler() {
        let rustc = shell::stdout(shell::command("rustc").arg("-vV")).unwrap();
        let llvm = rustc.lines().find_map(|line| line.strip_prefix("LLVM version: ")).unwrap();
        let major = llvm.split('.').next().unwrap();
        assert_eq!(LLVM_PREFIX, format!("/usr/lib/llvm-{major}"));
        assert!(BPF_LINKER.args.contains(&format!("llvm-{major}").as_str()));
    }
}
