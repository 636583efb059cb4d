//! `observe`: the observer, which asks the agents of all nodes for the users of the API server.

use anyhow::Context as _;
use netpol_kube::published::NAMESPACE;
use netpol_observer::observer::{self, Config};
use tokio_util::sync::CancellationToken;

use super::args::ObserveArgs;
use super::run::start_log;
use crate::agent::end_at_signal;

/// The agents' service account.
const SERVICE_ACCOUNT: &str = "netpol-agent";

/// Runs the observer until SIGTERM or SIGINT.
pub(super) fn run(args: ObserveArgs) -> anyhow::Result<u8> {
    let ObserveArgs { kubeconfig, address, api_port, agents_port, log, log_format } = args;
    start_log(&log, log_format)?;
    let config = Config {
        kubeconfig,
        namespace: NAMESPACE.to_owned(),
        address,
        api_port,
        agents_port,
        service_account: SERVICE_ACCOUNT.to_owned(),
    };
    let runtime = tokio::runtime::Runtime::new().context("starting the async runtime")?;
    runtime.block_on(async {
        let cancel = CancellationToken::new();
        tokio::spawn(end_at_signal(cancel.clone()));
        observer::run(config, cancel).await
    })?;
    Ok(0)
}
