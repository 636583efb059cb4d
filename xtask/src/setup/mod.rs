//! `cargo xtask setup`: installs missing tools for building and testing.
//!
//! Afterwards the machine has the pinned toolchain's parts, the system's packages, bpf-linker, cargo-nextest, and a mounted
//! bpffs. Idempotent, and takes under a second when nothing is missing. Must not: compile anything of the workspace, which needs
//! these tools.

use std::fs;

use anyhow::{Result, bail};

use crate::{privilege::Privilege, shell, term};

mod bpffs;
mod cargo_tools;
mod cross;
mod helm;
mod system;
mod toolchain;

pub(crate) use cross::{CCompiler, static_programs};

/// Options of `setup`: none.
#[derive(clap::Args, Default)]
pub(crate) struct Options {}

/// Installs missing tools and prints the versions.
///
/// # Errors
/// A tool could not be installed, or is missing on a system other than Debian and Ubuntu: the message lists what to install.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options {} = options;
    let privilege = Privilege::detect();
    toolchain::ensure()?;
    let linker_is_missing = cargo_tools::BPF_LINKER.installed_version().is_none();
    let mut needs = system::RUNTIME.to_vec();
    if linker_is_missing {
        needs.extend(system::LLVM);
    }
    if shell::find_program("containerd").is_none() {
        needs.extend(system::CONTAINERD);
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
    cargo_tools::NEXTEST.ensure()?;
    helm::ensure();
    bpffs::ensure(privilege);
    term::good(&format!("set-up: {}", versions()?));
    Ok(())
}

/// Installs the tools for virtual machines.
///
/// # Errors
/// A tool could not be installed, or this is not Debian or Ubuntu, whose kernels the machines run.
pub(crate) fn for_machines() -> Result<()> {
    match system::Distribution::detect()? {
        system::Distribution::Debian => system::install(&system::MACHINES, Privilege::detect()),
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

/// Installs cargo-deny.
///
/// # Errors
/// It could not be installed.
pub(crate) fn for_dependencies() -> Result<()> {
    cargo_tools::DENY.ensure()
}

/// Updates the package lists.
///
/// # Errors
/// No way to become root, or apt failed.
pub(crate) fn update_package_lists() -> Result<()> {
    system::update_package_lists(Privilege::detect())
}

/// The versions of the tools, on one line.
fn versions() -> Result<String> {
    let rustc = shell::stdout(shell::command("rustc").arg("--version"))?;
    let rustc = rustc.split_whitespace().nth(1).unwrap_or("unknown");
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "unknown".to_owned());
    let tools = [&cargo_tools::BPF_LINKER, &cargo_tools::NEXTEST].map(|tool| {
        match tool.installed_version() {
            Some(version) => format!("{} {version}", tool.krate),
            None => format!("{} missing", tool.krate),
        }
    });
    Ok(format!("rustc {rustc}, {}, kernel {}", tools.join(", "), kernel.trim()))
}
