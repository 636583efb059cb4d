//! Tools for static programs: a C compiler, and the target's standard library or what cargo builds it from.

use anyhow::{Result, bail};

use super::apt::Apt;
use super::musl::Musl;
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

/// Compiles the unwinder of a standard library that is built here.
const CXX_FOR_AARCH64: Need = need(
    "g++-aarch64-linux-gnu",
    Shows::Program("aarch64-linux-gnu-g++"),
    "the unwinder of static programs",
);

/// Where the standard library of a target comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// rustup has installed it, or will.
    Rustup,
    /// `rust-src`, with musl from Debian: no toolchain has to be downloaded for one more processor.
    Sources,
}

/// What decides about the origin.
#[derive(Clone, Copy, Debug)]
struct Machine {
    /// rustup has installed the target.
    has_target: bool,
    /// The keys of Debian's archive are there.
    knows_debian: bool,
}

impl Origin {
    /// rustup's is taken if it is there. Debian's archive is needed for the other, and only musl for 64-bit ARM is known here.
    fn of(compiler: CCompiler, machine: Machine) -> Self {
        let Machine { has_target, knows_debian } = machine;
        if compiler == CCompiler::CrossToAarch64 && !has_target && knows_debian {
            Self::Sources
        } else {
            Self::Rustup
        }
    }
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

/// Installs missing tools for static programs of a target. Returns musl and the unwinder if cargo must build `std` itself.
///
/// # Errors
/// Something could not be installed; on other systems than Debian and Ubuntu, what a person has to install.
pub(crate) fn static_programs(target: &str, compiler: CCompiler) -> Result<Option<Musl>> {
    let machine =
        Machine { has_target: toolchain::has_target(target)?, knows_debian: Apt::knows_debian() };
    let origin = Origin::of(compiler, machine);
    let mut needs = compiler.needs();
    match origin {
        Origin::Rustup => toolchain::ensure_target(target)?,
        Origin::Sources => needs.push(CXX_FOR_AARCH64),
    }
    match system::Distribution::detect()? {
        system::Distribution::Debian => system::install(&needs, Privilege::detect())?,
        system::Distribution::Other(name) => {
            // Headers cannot be detected, but come with the compiler.
            let missing = match crate::shell::find_program(compiler.program()) {
                Some(_) => Vec::new(),
                None => system::missing_elsewhere(&needs),
            };
            if !missing.is_empty() {
                bail!("on {name}, please install by hand:\n  {}", missing.join("\n  "));
            }
        }
    }
    match origin {
        Origin::Rustup => Ok(None),
        Origin::Sources => Musl::ensure().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standard_library_is_built_only_where_rustup_has_not_brought_it() {
        let cases = [
            (CCompiler::CrossToAarch64, false, true, Origin::Sources),
            (CCompiler::CrossToAarch64, true, true, Origin::Rustup),
            (CCompiler::CrossToAarch64, false, false, Origin::Rustup),
            (CCompiler::CrossToX86_64, false, true, Origin::Rustup),
            (CCompiler::Musl, false, true, Origin::Rustup),
        ];
        for (compiler, has_target, knows_debian, expected) in cases {
            let machine = Machine { has_target, knows_debian };
            assert_eq!(Origin::of(compiler, machine), expected, "{compiler:?}, {machine:?}");
        }
    }
}
