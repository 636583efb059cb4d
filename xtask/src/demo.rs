//! `cargo xtask demo`: pods on this machine, the policies of `deploy/examples`, real packets.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result, bail};

use crate::{build, privilege::Privilege, setup, term, workspace::Workspace};

/// Options of `demo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave the node and its pods running afterwards, and tell how to look around.
    #[arg(long)]
    keep: bool,
    /// Only remove what an earlier demo left.
    #[arg(long, conflicts_with = "keep")]
    remove: bool,
}

/// Sets up, builds, and becomes the demo: it has the terminal, and Ctrl-C reaches it.
///
/// # Errors
/// The set-up or the build failed, there is no way to become root, or the demo could not be started.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { keep, remove } = options;
    setup::run(&setup::Options::default())?;
    term::heading("build");
    build::programs()?;
    let program = Workspace::read()?.target_directory.join("debug/demo");
    let program = program.to_str().context("the target folder's name is not UTF-8")?;
    let Some(mut demo) = Privilege::detect().command(program) else {
        bail!("the demo makes network namespaces and loads eBPF programs: it needs root or sudo");
    };
    if *keep {
        demo.arg("--keep");
    }
    if *remove {
        demo.arg("--remove");
    }
    Err(demo.exec()).with_context(|| format!("starting {program}"))
}
