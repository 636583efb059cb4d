//! `ui`: who reaches whom, in a browser.
//!
//! In: the objects of files or of a cluster. Out: a page on a loopback address, and the data that it shows. Must not: change an object,
//! or answer anybody but the browser that was given the token.
//!
//! `source` reads objects, `model` evaluates them on a thread of its own, `answers` has the data for the page, `server` serves it.

mod answers;
mod drops;
mod model;
mod policies;
mod rows;
mod server;
mod source;
mod worker;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use netpol_terminal::Terminal;
use tokio::net::TcpListener;

use crate::input::PodNetworkArgs;
use crate::live::{AccessArgs, block_on};
use model::{Model, Options};
use server::Server;
use source::Source;
use worker::Worker;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  netpol ui
  netpol ui --context production --no-open
  netpol ui -f rendered/ --address 203.0.113.7";

/// Show in a browser who reaches whom: a matrix and a graph of workloads, why, what an edited policy would change, and live drops.
///
/// Reads the objects of the cluster of kubectl's current context, or those of files, and changes neither. The page is served on a loopback
/// address until the command is interrupted. The printed address contains a token that one browser can use once.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct UiArgs {
    /// Show the objects of these files and directories instead of those of a cluster.
    #[arg(short = 'f', long, value_name = "PATH", num_args = 1..)]
    manifests: Vec<PathBuf>,
    /// Addresses outside the cluster to show too.
    #[arg(long = "address", value_name = "IP", value_delimiter = ',')]
    addresses: Vec<IpAddr>,
    #[command(flatten)]
    pod_networks: PodNetworkArgs,
    /// Loopback address and port to serve on; port 0 is any free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0", value_parser = loopback)]
    listen: SocketAddr,
    /// Do not open the browser.
    #[arg(long)]
    no_open: bool,
    #[command(flatten)]
    access: AccessArgs,
}

/// A loopback address with a port.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_invalid| "it is no ADDRESS:PORT, such as 127.0.0.1:8080".to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("only a loopback address, such as 127.0.0.1 or [::1], is served on".to_owned())
    }
}

/// Serves until it is interrupted.
pub(super) fn run(args: UiArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let UiArgs { manifests, addresses, pod_networks, listen, no_open, access } = args;
    let source = if manifests.is_empty() {
        Source::Cluster(access.clone())
    } else {
        Source::Files(manifests)
    };
    let drops = source.is_live().then_some(access);
    let PodNetworkArgs { pod_networks, own_node_egress } = pod_networks;
    let options = Options { addresses, pod_networks, own_node_egress };
    block_on(async {
        let worker = Worker::start(source, options)?;
        let n_problems = worker.ask(Model::load).await?.context("nothing can be shown")?;
        worker.tell(Model::prepare)?;
        if n_problems > 0 {
            let noun = if n_problems == 1 { "note" } else { "notes" };
            terminal
                .complain(&format_args!("{n_problems} {noun} on the objects: the page lists them"));
        }
        let listener = TcpListener::bind(listen).await;
        let listener = listener.with_context(|| format!("cannot listen on {listen}"))?;
        let server = Server::new(listener.local_addr()?, worker, drops)?;
        let url = server.url();
        writeln!(terminal.stdout, "{url}")?;
        terminal.stdout.flush()?;
        if !no_open && let Err(error) = open::that_detached(&url) {
            terminal.complain(&format_args!("cannot open a browser: {error}"));
        }
        tokio::select! {
            () = server.serve(listener) => bail!("the server has ended"),
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.context("cannot wait for Ctrl-C")?;
                Ok(0)
            }
        }
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_served_on() {
        for text in ["127.0.0.1:0", "127.1.2.3:8080", "[::1]:8080"] {
            assert!(loopback(text).is_ok(), "{text}");
        }
        for text in
            ["0.0.0.0:0", "[::]:0", "192.0.2.1:80", "[::ffff:127.0.0.1]:80", "localhost:80", ""]
        {
            assert!(loopback(text).is_err(), "{text}");
        }
    }
}
