//! `cargo xtask verify`: the costs of each eBPF program, compared with the committed table `netpol-ebpf/verified.txt`.

use anyhow::Result;

pub(crate) use crate::lab_options::Verify as Options;
use crate::{program, setup, shell, term};

/// Sets up, builds, loads the programs, and compares.
///
/// # Errors
/// The set-up or the build failed, there is no way to become root, or a program costs more than the table says.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { update } = options;
    setup::ensure(setup::Purpose::Running)?;
    let mut build = shell::cargo(["build", "-p", "netpol-lab", "--bin", "verify"]);
    shell::step("building the programs and their loader", &mut build)?;
    term::heading("costs of the programs");
    let mut verify = program::as_root("debug", "verify")?;
    if *update {
        verify.arg("--update");
    }
    shell::run(&mut verify)
}
