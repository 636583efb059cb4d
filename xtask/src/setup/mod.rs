//! `cargo xtask setup`: installs missing tools for building and testing.
//!
//! Afterwards the machine has the pinned toolchain's parts and bpf-linker, and by [`Purpose`] the system's packages, a mounted
//! bpffs, and cargo-nextest. Idempotent, and takes under a second when nothing is missing. Must not: compile anything of the
//! workspace, which needs these tools.

use std::fs;

use anyhow::{Result, bail};

use crate::{image::Platform, privilege::Privilege, shell, term};

pub(crate) mod apt;
mod bpffs;
mod browser;
mod cargo_tools;
mod cross;
mod helm;
mod musl;
mod pypi;
mod system;
mod toolchain;
mod validators;

pub(crate) use cross::{CCompiler, static_programs};
pub(crate) use musl::{Musl, Package};

/// What a machine is set up for. Each purpose includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Building all programs.
    Building,
    /// Running them between pods on this machine.
    Running,
    /// Running the tests, whose runner takes longer to compile than everything else here.
    Testing,
}

/// Options of `setup`: none.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// Installs all missing tools and prints the versions.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options {} = options;
    ensure(Purpose::Testing)
}

/// Installs the missing tools for a purpose and prints the versions.
///
/// # Errors
/// A tool could not be installed, or is missing on a system other than Debian and Ubuntu: the message lists what to install.
pub(crate) fn ensure(purpose: Purpose) -> Result<()> {
    let privilege = Privilege::detect();
    toolchain::ensure()?;
    let linker_is_missing = cargo_tools::BPF_LINKER.installed_version().is_none();
    let mut needs = needs(purpose);
    if linker_is_missing {
        needs.extend(system::LLVM);
    }
    match system::Distribution::detect()? {
        system::Distribution::Debian => {
            system::install(&needs, privilege)?;
            cargo_tools::BPF_LINKER.ensure()?;
        }
        system::Distribution::Other(name) => {
            let mut advice = system::missing_elsewhere(&needs);
            if linker_is_missing {
                advice.push(format!("bpf-linker: {}", cargo_tools::BPF_LINKER.by_hand()));
            }
            if !advice.is_empty() {
                bail!(
                    "{name} is neither Debian nor Ubuntu, so please install by hand and run `cargo xtask setup` again:\n  {}",
                    advice.join("\n  ")
                );
            }
        }
    }
    if purpose >= Purpose::Testing {
        cargo_tools::NEXTEST.ensure()?;
        browser::ensure(privilege);
        helm::ensure();
        validators::ensure();
    }
    if purpose >= Purpose::Running {
        bpffs::ensure(privilege);
    }
    term::good(&format!("set-up: {}", versions(purpose)?));
    Ok(())
}

/// The system's packages, but for those with which bpf-linker is compiled.
fn needs(purpose: Purpose) -> Vec<system::Need> {
    let mut needs = Vec::new();
    if purpose >= Purpose::Running {
        needs.extend(system::NETWORK);
    }
    if purpose >= Purpose::Testing {
        needs.extend(system::TESTS);
        if shell::find_program("containerd").is_none() {
            needs.extend(system::CONTAINERD);
        }
    }
    needs
}

/// Installs the tools for virtual machines with these processors.
///
/// # Errors
/// A tool could not be installed, or this is not Debian or Ubuntu, whose kernels the machines run.
pub(crate) fn for_machines(platforms: &[Platform]) -> Result<()> {
    let mut needs = system::MACHINES.to_vec();
    if platforms.contains(&Platform::Arm64) {
        needs.extend(system::MACHINES_FOR_ARM64);
    }
    match system::Distribution::detect()? {
        system::Distribution::Debian => system::install(&needs, Privilege::detect()),
        system::Distribution::Other(name) => {
            bail!("the machines run Debian's kernels, which {name} cannot download")
        }
    }
}

/// Installs the tools for fuzzing.
///
/// # Errors
/// Something could not be installed.
pub(crate) fn for_fuzzing() -> Result<()> {
    if system::Distribution::detect()? == system::Distribution::Debian {
        system::install(&system::FUZZING, Privilege::detect())?;
    }
    cargo_tools::FUZZ.ensure()
}

/// Installs a browser, and the way to drive it.
///
/// # Errors
/// They could not be installed, or this is not Debian.
pub(crate) fn for_pages() -> Result<()> {
    browser::install(Privilege::detect())
}

/// Installs cargo-deny.
///
/// # Errors
/// It could not be installed.
pub(crate) fn for_dependencies() -> Result<()> {
    cargo_tools::DENY.ensure()
}

/// The versions of the tools, on one line.
fn versions(purpose: Purpose) -> Result<String> {
    let rustc = shell::stdout(shell::command("rustc").arg("--version"))?;
    let rustc = rustc.split_whitespace().nth(1).unwrap_or("unknown");
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "unknown".to_owned());
    let runner = (purpose >= Purpose::Testing).then_some(&cargo_tools::NEXTEST);
    let tools: Vec<_> = std::iter::once(&cargo_tools::BPF_LINKER)
        .chain(runner)
        .map(|tool| match tool.installed_version() {
            Some(version) => format!("{} {version}", tool.krate),
            None => format!("{} missing", tool.krate),
        })
        .collect();
    Ok(format!("rustc {rustc}, {}, kernel {}", tools.join(", "), kernel.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_and_the_demo_need_no_tools_of_tests() {
        let names =
            |purpose| -> Vec<_> { needs(purpose).iter().map(|need| need.package).collect() };
        // These made a clean clone compile a runner of tests and download Prometheus before its first image.
        assert!(names(Purpose::Building).is_empty());
        let running = names(Purpose::Running);
        assert!(running.contains(&"iproute2") && !running.contains(&"prometheus"));
        assert!(names(Purpose::Testing).contains(&"prometheus"));
    }
}
