//! The command lines of the harness's programs. xtask includes this file, because its commands of the same names pass
//! their arguments on: so it uses clap and nothing else.

use std::path::PathBuf;

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Leave the node and its pods running afterwards, and tell how to look around.
    #[arg(long)]
    pub keep: bool,
    /// Only remove what an earlier demo left.
    #[arg(long, conflicts_with = "keep")]
    pub remove: bool,
}

/// Options of `e2e`.
#[derive(Debug, clap::Args)]
pub struct E2e {
    /// The cluster's kubeconfig; else $KUBECONFIG, else ~/.kube/config.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Say which cluster it is and what would be made in it, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Only tests whose name contains one of these.
    pub filters: Vec<String>,
}

/// Options of `soak`: how much load.
#[derive(Clone, Debug, clap::Args)]
pub struct Soak {
    /// How long pods come and go, after a warm-up of a fifth of that.
    #[arg(long, default_value_t = 180)]
    pub seconds: u64,
    /// Pods that are created a second; as many are deleted.
    #[arg(long, default_value_t = 100)]
    pub pods_per_second: u32,
    /// Endpoints on the node that stay.
    #[arg(long = "endpoints", value_name = "N", default_value_t = 200)]
    pub n_endpoints: u32,
    /// Seconds for which the API server is away after that, while pods still come and go.
    #[arg(long = "outage", value_name = "SECONDS", default_value_t = 0)]
    pub outage_seconds: u64,
}

/// Options of `verify`.
#[derive(Debug, Default, clap::Args)]
pub struct Verify {
    /// Write the table instead of comparing: for a change that is meant.
    #[arg(long)]
    pub update: bool,
}
