//! `cargo xtask soak`: load for minutes, with every verdict checked.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result, bail};

use crate::{build, privilege::Privilege, setup, term, workspace::Workspace};

/// Options of `soak`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long the load lasts, after a warm-up of a fifth of that.
    #[arg(long, default_value_t = 180)]
    seconds: u64,
    /// Pods that are created a second; as many are deleted.
    #[arg(long, default_value_t = 100)]
    pods_per_second: u32,
    /// Endpoints on the node that stay.
    #[arg(long, default_value_t = 200)]
    endpoints: u32,
    /// Seconds for which the API server is away after that, while pods still come and go.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    outage: u64,
}

/// Sets up, builds, and becomes the soak.
///
/// # Errors
/// The set-up or the build failed, there is no way to become root, or the soak could not be started.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { seconds, pods_per_second, endpoints, outage } = options;
    setup::run(&setup::Options::default())?;
    term::heading("build");
    build::programs()?;
    let program = Workspace::read()?.target_directory.join("debug/soak");
    let program = program.to_str().context("the target folder's name is not UTF-8")?;
    let Some(mut soak) = Privilege::detect().command(program) else {
        bail!("the soak makes network namespaces and loads eBPF programs: it needs root or sudo");
    };
    soak.args(["--seconds", &seconds.to_string()]);
    soak.args(["--pods-per-second", &pods_per_second.to_string()]);
    soak.args(["--endpoints", &endpoints.to_string()]);
    soak.args(["--outage", &outage.to_string()]);
    Err(soak.exec()).with_context(|| format!("starting {program}"))
}
