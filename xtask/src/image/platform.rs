//! The processors that images support, and how to build static programs for them.

use std::env::consts;

use oci_spec::image::Arch;

use crate::setup;

/// A processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Platform {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Platform {
    /// The processor of this machine; x86-64 if it is another one.
    pub(crate) fn of_this_machine() -> Self {
        if consts::ARCH == "aarch64" { Self::Arm64 } else { Self::Amd64 }
    }

    /// Its name in the image specification.
    pub(crate) fn oci(self) -> Arch {
        match self {
            Self::Amd64 => Arch::Amd64,
            Self::Arm64 => Arch::ARM64,
        }
    }

    /// Its name in file names.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Its name in Rust targets.
    const fn arch(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// The Rust target: musl, for static programs.
    pub(crate) fn target(self) -> String {
        format!("{}-unknown-linux-musl", self.arch())
    }

    /// The C compiler, for linking and for ring, which contains C and assembler.
    pub(crate) fn c_compiler(self) -> setup::CCompiler {
        if consts::ARCH == self.arch() {
            setup::CCompiler::Musl
        } else {
            match self {
                Self::Amd64 => setup::CCompiler::CrossToX86_64,
                Self::Arm64 => setup::CCompiler::CrossToAarch64,
            }
        }
    }

    /// Environment variables that select the compiler for cargo and the `cc` crate.
    pub(crate) fn environment(self) -> Vec<(String, &'static str)> {
        let compiler = self.c_compiler();
        let target = self.target().replace('-', "_");
        let mut environment = vec![(format!("CC_{target}"), compiler.program())];
        // Rust provides musl itself; the linker only needs the processor.
        if compiler != setup::CCompiler::Musl {
            let name = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase());
            environment.push((name, compiler.program()));
        }
        environment
    }
}
