//! The traffic of a lab's pods: see [`netpol_lab::probe`].
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "its reports are its output")]

use std::io::{Write as _, copy, sink, stdin, stdout};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use netpol_lab::probe::{self, Protocol};

/// Sends and answers test traffic.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Echo everything that arrives on these ports, TCP and UDP.
    Serve {
        /// The ports.
        #[arg(long, value_delimiter = ',', required = true)]
        ports: Vec<u16>,
    },
    /// Try the exchanges listed on standard input and write their outcomes as JSON.
    Connect,
    /// Send messages on one connection until standard input ends; write its progress as lines of JSON.
    Stream {
        /// tcp or udp.
        protocol: Protocol,
        /// Address and port.
        destination: SocketAddr,
        /// Microseconds between two messages.
        #[arg(long, default_value_t = 2000)]
        pace_us: u64,
    },
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Args::parse().mode {
        Mode::Serve { ports } => runtime.block_on(probe::serve::run(&ports, || line(probe::READY))),
        Mode::Connect => {
            let task = serde_json::from_reader(stdin()).context("reading the task")?;
            let outcomes = runtime.block_on(probe::connect::run(&task));
            line(&serde_json::to_string(&outcomes)?)
        }
        Mode::Stream { protocol, destination, pace_us } => {
            let pace = Duration::from_micros(pace_us);
            let report = |report: &probe::StreamReport| line(&serde_json::to_string(report)?);
            let result = runtime.block_on(probe::stream::run(
                protocol,
                destination,
                pace,
                end_of_input(),
                report,
            ));
            // A thread still reads standard input.
            runtime.shutdown_background();
            result
        }
    }
}

/// Resolves when the parent closes our standard input or exits.
async fn end_of_input() {
    let copied = tokio::task::spawn_blocking(|| copy(&mut stdin(), &mut sink()));
    copied.await.ok();
}

fn line(text: &str) -> Result<()> {
    println!("{text}");
    stdout().flush().context("writing standard output")
}
