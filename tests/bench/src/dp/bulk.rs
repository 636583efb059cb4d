//! Bulk TCP, by `iperf3`.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::lane::{Family, Lane, PORT, peer, pod};
use netpol_lab::node::wait::{LIMIT, Look, until};

/// Throughput from client to server, gigabits per second.
///
/// # Errors
/// `iperf3` is missing or failed.
pub fn gigabits(lane: &Lane, family: Family, n_seconds: u32) -> Result<f64> {
    let port = PORT.to_string();
    let mut server = Command::new("iperf3");
    server.args(["-s", "-1", "-p", &port]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = lane.server().spawn(&mut server).context("starting iperf3")?;
    let outcome = listen(lane).and_then(|()| client(lane, family, &port, n_seconds));
    if outcome.is_err() {
        server.kill().ok();
    }
    server.wait()?;
    outcome
}

fn listen(lane: &Lane) -> Result<()> {
    until("iperf3 listens", LIMIT, || {
        let output = lane
            .server()
            .inside(|| Command::new("ss").args(["-Htln"]).output().context("starting ss"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let listens = text.lines().any(|line| line.contains(&format!(":{PORT} ")));
        Ok(if listens { Look::Done(()) } else { Look::NotYet(text) })
    })
}

fn client(lane: &Lane, family: Family, port: &str, n_seconds: u32) -> Result<f64> {
    let (from, to) = (peer(0, family).to_string(), pod(0, family).to_string());
    let seconds = n_seconds.to_string();
    let mut client = Command::new("iperf3");
    client.args(["-J", "-C", "cubic", "-c", &to, "-B", &from, "-p", port, "-t", &seconds]);
    let output = lane.client().inside(|| client.output().context("starting iperf3"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "iperf3: {text}");
    let said: Value = serde_json::from_str(&text).context("reading what iperf3 says")?;
    let rate = said.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
    Ok(rate.context("iperf3 says no rate")? / 1e9)
}
