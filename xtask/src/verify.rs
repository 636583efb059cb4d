//! `cargo xtask verify`: what each eBPF program costs, against the committed table `netpol-ebpf/verified.txt`.

use anyhow::{Context as _, Result, bail};

use crate::{privilege::Privilege, setup, shell, term, workspace::Workspace};

/// Options of `verify`.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Write the table instead of comparing: for a change that is meant.
    #[arg(long)]
    update: bool,
}

/// Sets up, builds, loads the programs, and compares.
///
/// # Errors
/// The set-up or the build failed, there is no way to become root, or a program costs more than the table says.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { update } = options;
    setup::run(&setup::Options::default())?;
    let mut build = shell::cargo(["build", "-p", "netpol-lab", "--bin", "verify"]);
    shell::step("building the programs and what loads them", &mut build)?;
    term::heading("what the programs cost");
    let program = Workspace::read()?.target_directory.join("debug/verify");
    let program = program.to_str().context("the target folder's name is not UTF-8")?;
    let Some(mut verify) = Privilege::detect().command(program) else {
        bail!("loading eBPF programs needs root or sudo");
    };
    if *update {
        verify.arg("--update");
    }
    shell::run(&mut verify)
}
