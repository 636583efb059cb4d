//! Policy changes under live connections.

use anyhow::{Result, ensure};
use netpol_lab::node::netns::{Counter, Netns};
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Family, Host, Stream};
use netpol_lab::probe::Protocol;

use super::{ALLOW_CLIENTS, DENY_WEB, PORT, client, lab, web};

/// Number of unanswered messages after which a stream counts as cut. Few, because TCP's send buffer is small at first.
const N_UNANSWERED: u64 = 40;

#[test]
fn a_tcp_connection_is_cut_by_a_policy_and_goes_on_when_it_is_allowed_again() -> Result<()> {
    check("cut-tcp", Protocol::Tcp, Family::V4)
}

#[test]
fn a_tcp_connection_over_ipv6_is_cut_and_goes_on() -> Result<()> {
    check("cut-tcp6", Protocol::Tcp, Family::V6)
}

#[test]
fn a_udp_stream_is_cut_by_a_policy_and_goes_on_when_it_is_allowed_again() -> Result<()> {
    check("cut-udp", Protocol::Udp, Family::V4)
}

fn check(name: &str, protocol: Protocol, family: Family) -> Result<()> {
    let Some(mut lab) = lab(name)? else { return Ok(()) };
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    for pod in [web(), client()] {
        lab.add_pod(pod)?;
    }
    let web = Host::pod("shop/web");
    let destination = lab.socket_address(&web, family, PORT)?;
    let client_host = Host::pod("shop/client");
    let mut stream = lab.stream(&client_host, protocol, destination, 1000)?;
    stream.wait_for_answers(100)?;

    lab.manifests().write("deny.yaml", DENY_WEB)?;
    lab.manifests().remove("allow.yaml")?;
    wait_until_cut(&mut stream)?;
    let arrived = || -> Result<u64> {
        let netns = lab.netns(&web)?;
        Ok(netns.counter(Counter::UdpArrived)? + netns.counter(Counter::TcpArrived)?)
    };
    let n_arrived = arrived()?;
    match protocol {
        Protocol::Udp => drop(stream.wait_for_messages(N_UNANSWERED)?),
        Protocol::Tcp => wait_until_sent_again(lab.netns(&client_host)?)?,
    }
    ensure!(arrived()? == n_arrived, "packets arrive although the stream is cut");

    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    stream.wait_for_answers(100)?;
    let report = stream.finish()?;
    ensure!(report.error.is_none(), "{report:?}");
    if protocol == Protocol::Tcp {
        ensure!(report.n_missing() == 0, "the connection lost bytes: {report:?}");
    }
    Ok(())
}

pub(super) fn wait_until_cut(stream: &mut Stream) -> Result<()> {
    let mut last_answer = stream.report();
    loop {
        let report = stream.wait_for_messages(1)?;
        if report.n_received != last_answer.n_received {
            last_answer = report;
        } else if report.n_sent >= last_answer.n_sent + N_UNANSWERED {
            return Ok(());
        }
    }
}

/// Waits for retransmissions of a cut TCP connection.
fn wait_until_sent_again(netns: &Netns) -> Result<()> {
    let before = netns.counter(Counter::TcpSentAgain)?;
    until("two more attempts of the connection", LIMIT, || {
        let n = netns.counter(Counter::TcpSentAgain)? - before;
        Ok(if n >= 2 { Look::Done(()) } else { Look::NotYet(n.to_string()) })
    })
}
