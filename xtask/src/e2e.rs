//! `cargo xtask e2e`: what the agent asks of an API server, asked of the current cluster's.

use std::{os::unix::process::CommandExt as _, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{build, setup, shell, term, workspace::Workspace};

/// Options of `e2e`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The cluster's kubeconfig; else $KUBECONFIG, else ~/.kube/config.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Say which cluster it is and what would be made in it, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Only tests whose name contains one of these.
    filters: Vec<String>,
}

/// Sets up, builds, and becomes the program that runs the tests and cleans up after them.
///
/// # Errors
/// The set-up or the build failed, or the program could not be started.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { kubeconfig, dry_run, filters } = options;
    setup::run(&setup::Options::default())?;
    term::heading("build");
    build::programs()?;
    let program = Workspace::read()?.target_directory.join("debug/e2e");
    let mut e2e = shell::command(&program);
    // It runs in the workspace's root, which may not be where the file was named.
    if let Some(kubeconfig) = kubeconfig {
        e2e.arg("--kubeconfig").arg(std::path::absolute(kubeconfig)?);
    }
    if *dry_run {
        e2e.arg("--dry-run");
    }
    e2e.arg("--").args(filters);
    Err(e2e.exec()).with_context(|| format!("starting {}", program.display()))
}
