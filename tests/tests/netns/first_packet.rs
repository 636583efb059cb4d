//! Enforcement from a pod's first packet.

use anyhow::{Result, ensure};
use netpol_lab::node::netns::Counter;
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::{Family, Host, Lab, Stream};
use netpol_lab::probe::Protocol::Udp;

use super::{ALLOW_CLIENTS, DENY_ALL, PORT, client, lab, lab_without_agent, visitor, web};

/// Interval between datagrams, microseconds.
const PACE_US: u64 = 200;

/// Number of datagrams that a pod sends.
const N_MESSAGES: u64 = 500;

fn n_arrived(lab: &Lab) -> Result<u64> {
    lab.netns(&Host::pod("shop/web"))?.counter(Counter::UdpArrived)
}

/// The first packet is sent right after the answer to ADD, because no container starts before.
#[test]
fn nothing_that_a_pod_sends_from_its_first_instant_passes_a_policy_that_forbids_it() -> Result<()> {
    let Some(mut lab) = lab("first-denied")? else { return Ok(()) };
    lab.add_pod(web())?;
    lab.manifests().write("deny.yaml", DENY_ALL)?;
    for family in Family::BOTH {
        let destination = lab.socket_address(&Host::pod("shop/web"), family, PORT)?;
        let n_before = n_arrived(&lab)?;
        let netns = lab.prepare_pod(&visitor())?;
        let mut stream = lab.connect_pod(visitor(), &netns, |netns| {
            Stream::start(netns, Udp, destination, PACE_US)
        })?;
        stream.wait_for_messages(N_MESSAGES)?;
        let report = stream.finish()?;
        let n_leaked = n_arrived(&lab)? - n_before;
        ensure!(n_leaked == 0 && report.n_received == 0, "{n_leaked} arrived: {report:?}");
        lab.delete_pod("shop/visitor")?;
    }
    Ok(())
}

#[test]
fn everything_that_is_allowed_passes_from_the_first_instant() -> Result<()> {
    let Some(mut lab) = lab("first-allowed")? else { return Ok(()) };
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    lab.add_pod(web())?;
    for family in Family::BOTH {
        let destination = lab.socket_address(&Host::pod("shop/web"), family, PORT)?;
        let netns = lab.prepare_pod(&client())?;
        let mut stream = lab.connect_pod(client(), &netns, |netns| {
            Stream::start(netns, Udp, destination, PACE_US)
        })?;
        stream.wait_for_messages(N_MESSAGES)?;
        let report = stream.finish()?;
        ensure!(report.n_missing() == 0 && report.n_refused == 0, "{report:?}");
        lab.delete_pod("shop/client")?;
    }
    Ok(())
}

/// With netpol-cni as the main plugin the interface is never open, even for packets before the answer to ADD.
#[test]
fn an_interface_of_our_own_is_closed_before_it_is_up() -> Result<()> {
    let Some(mut lab) = lab_without_agent("first-routed", Wiring::Routed)? else { return Ok(()) };
    lab.start_agent()?;
    lab.add_pod(web())?;
    lab.manifests().write("deny.yaml", DENY_ALL)?;
    for family in Family::BOTH {
        let destination = lab.socket_address(&Host::pod("shop/web"), family, PORT)?;
        let n_before = n_arrived(&lab)?;
        let netns = lab.prepare_pod(&visitor())?;
        let mut stream = Stream::start(&netns, Udp, destination, PACE_US)?;
        stream.wait_until("a refusal for lack of a route", |report| report.n_refused > 0)?;
        lab.connect_pod(visitor(), &netns, |_netns| Ok(()))?;
        stream.wait_for_messages(N_MESSAGES)?;
        let report = stream.finish()?;
        let n_leaked = n_arrived(&lab)? - n_before;
        ensure!(n_leaked == 0 && report.n_received == 0, "{n_leaked} arrived: {report:?}");
        lab.delete_pod("shop/visitor")?;
    }
    Ok(())
}
