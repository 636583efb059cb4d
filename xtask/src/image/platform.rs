//! The processors that images are made for, and how static programs for them are built here.

use std::env::consts;

use oci_spec::image::Arch;

use crate::setup;

/// A processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Platform {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Platform {
    /// The processor of this machine; x86-64 on others, which can build for it as well.
    pub(super) fn of_this_machine() -> Self {
        if consts::ARCH == "aarch64" { Self::Arm64 } else { Self::Amd64 }
    }

    /// As the image specification calls it.
    pub(super) fn oci(self) -> Arch {
        match self {
            Self::Amd64 => Arch::Amd64,
            Self::Arm64 => Arch::ARM64,
        }
    }

    /// As file names and clouds call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As Rust calls it.
    const fn arch(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// Rust's target: musl, because programs that it is linked into need nothing else.
    pub(super) fn target(self) -> String {
        format!("{}-unknown-linux-musl", self.arch())
    }

    /// The C compiler, for the one dependency with C and assembler in it (ring), and for linking.
    pub(super) fn c_compiler(self) -> setup::CCompiler {
        if consts::ARCH == self.arch() {
            setup::CCompiler::Musl
        } else {
            match self {
                Self::Amd64 => setup::CCompiler::CrossToX86_64,
                Self::Arm64 => setup::CCompiler::CrossToAarch64,
            }
        }
    }

    /// What tells cargo and the `cc` crate about the compiler.
    pub(super) fn environment(self) -> Vec<(String, &'static str)> {
        let compiler = self.c_compiler();
        let target = self.target().replace('-', "_");
        let mut environment = vec![(format!("CC_{target}"), compiler.program())];
        // Rust brings musl itself; the linker must only know the processor.
        if compiler != setup::CCompiler::Musl {
            let name = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase());
            environment.push((name, compiler.program()));
        }
        environment
    }
}
