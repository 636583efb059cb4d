//! `run`: makes the configuration from the arguments, and starts the agent.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;
use tracing_subscriber::EnvFilter;

use super::args::{Attach, LogFormat, MissingBpfFs, RunArgs};
use crate::agent::{self, Config, Source};
use crate::discovery::SearchPaths;
use netpol_datapath::{Mount, Trace};

/// Runs the agent until SIGTERM or SIGINT.
pub(super) fn run(args: RunArgs) -> anyhow::Result<u8> {
    let RunArgs {
        manifests,
        kubeconfig,
        node,
        startup_taint,
        publish_addresses,
        cni_results,
        namespaces,
        socket,
        pin_root,
        bpffs,
        attach,
        mark_mask,
        pod_tunnels,
        tunnel_ports,
        short_cut,
        own_node_egress,
        health,
        metrics,
        observer_token,
        trace,
        log,
        log_format,
    } = args;
    if let Some(dir) = manifests.as_ref().filter(|dir| !dir.is_dir()) {
        anyhow::bail!("--manifests {}: there is no such directory", dir.display());
    }
    start_log(&log, log_format)?;
    raise_file_limit();
    let config = Config {
        source: match manifests {
            Some(dir) => Source::Manifests(dir),
            None => Source::Cluster { kubeconfig, startup_taint, publish_addresses },
        },
        node: node.map(Arc::from),
        search_paths: SearchPaths { results: cni_results, namespaces },
        socket,
        datapath: netpol_datapath::Config {
            pin_root: Some(pin_root),
            mount: match bpffs {
                MissingBpfFs::Mount => Mount::IfMissing,
                MissingBpfFs::Require => Mount::Never,
            },
            mark_mask,
            trace: if trace { Trace::On } else { Trace::Off },
            attaching: match attach {
                Attach::Auto => netpol_datapath::Attaching::of_this_kernel(),
                Attach::Clsact => netpol_datapath::Attaching::Filters,
            },
            flow_reads: netpol_datapath::FlowReads::OF_THIS_ARCHITECTURE,
            adaptation: None,
            capacities: BTreeMap::new(),
        },
        pod_tunnels,
        tunnel_ports,
        short_cut,
        own_node_egress,
        health,
        metrics,
        observer_token,
    };
    let runtime = tokio::runtime::Runtime::new().context("starting the async runtime")?;
    runtime.block_on(agent::run(config))?;
    Ok(0)
}

pub(super) fn start_log(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    // This target logs each failed request without its purpose, and the caller logs it again.
    let quiet = format!("kube_client::client::builder=off,{filter}");
    let filter = EnvFilter::try_new(quiet).with_context(|| format!("--log {filter}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!(error)).context("starting the log")
}

/// Raises the limit of open files to the hard limit. The soft limit is mostly 1024, for programs that use `select`.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        warn!(%error, ?current, ?maximum, "limit of open files not raised");
    }
}
