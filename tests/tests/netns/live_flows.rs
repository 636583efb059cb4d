//! Policies change under connections that live.

use anyhow::{Result, ensure};
use netpol_tests::lab::netns::Counter;
use netpol_tests::lab::{Family, Host, Stream};
use netpol_tests::probe::Protocol;

use super::{ALLOW_CLIENTS, DENY_WEB, PORT, client, lab, web};

/// Messages that are sent without an answer before a stream counts as cut.
const N_UNANSWERED: u64 = 100;

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
    let mut stream = lab.stream(&Host::pod("shop/client"), protocol, destination, 1000)?;
    stream.wait_for_answers(100)?;

    lab.manifests().write("deny.yaml", DENY_WEB)?;
    lab.manifests().remove("allow.yaml")?;
    wait_until_cut(&mut stream)?;
    let arrived = || -> Result<u64> {
        let netns = lab.netns(&web)?;
        Ok(netns.counter(Counter::UdpArrived)? + netns.counter(Counter::TcpArrived)?)
    };
    let n_arrived = arrived()?;
    stream.wait_for_messages(N_UNANSWERED)?;
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

fn wait_until_cut(stream: &mut Stream) -> Result<()> {
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
