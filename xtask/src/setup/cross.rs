//! Tools for static programs: the target's standard library, and a C compiler.

use anyhow::{Result, bail};

use super::system::{self, Need, Shows, need};
use super::toolchain;
use crate::privilege::Privilege;

/// A C compiler for static programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CCompiler {
    /// For this machine's processor: the system's, with the headers of musl.
    Musl,
    /// For x86-64, on another processor.
    CrossToX86_64,
    /// For 64-bit ARM, on another processor.
    CrossToAarch64,
}

impl CCompiler {
    /// Its name as a program.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Musl => "musl-gcc",
            Self::CrossToX86_64 => "x86_64-linux-gnu-gcc",
            Self::CrossToAarch64 => "aarch64-linux-gnu-gcc",
        }
    }

    fn needs(self) -> Vec<Need> {
        let compiler = |package| need(package, Shows::Program(self.program()), "static programs");
        let headers = |package| need(package, Shows::Nothing, "the headers of that compiler");
        match self {
            Self::Musl => vec![compiler("musl-tools")],
            Self::CrossToX86_64 => {
                vec![compiler("gcc-x86-64-linux-gnu"), headers("libc6-dev-amd64-cross")]
            }
            Self::CrossToAarch64 => {
                vec![compiler("gcc-aarch64-linux-gnu"), headers("libc6-dev-arm64-cross")]
            }
        }
    }
}

/// Installs missing tools for static programs of a target.
///
/// # Errors
/// Something could not be installed; on other systems than Debian and Ubuntu, what a person has to install.
pub(crate) fn static_programs(target: &str, compiler: CCompiler) -> Result<()> {
    toolchain::ensure_target(target)?;
    let needs = compiler.needs();
    match system::Distribution::detect()? {
        system::Distribution::Debian => system::install(&needs, Privilege::detect()),
        system::Distribution::Other(name) => {
            // Headers cannot be detected, but come with the compiler.
            let missing = match crate::shell::find_program(compiler.program()) {
                Some(_) => Vec::new(),
                None => system::missing_elsewhere(&needs),
            };
            if !missing.is_empty() {
                bail!("on {name}, please install by hand:\n  {}", missing.join("\n  "));
            }
            Ok(())
        }
    }
}
