//! The agent is killed or stopped, and another one starts.

use anyhow::{Context as _, Result, ensure};
use netpol_lab::node::cni::CniError;
use netpol_lab::node::netns::Counter;
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::{Agent, Family, Host, Lab, Passing, Stream};
use netpol_lab::probe::Protocol::{Tcp, Udp};
use netpol_policy::dataplane::port::Maps as _;

use super::{
    ALLOW_CLIENTS, DENY_WEB, PORT, client, expect, lab, lab_without_agent, maps, visitor, web,
};

/// Messages on each stream, in each phase.
const N_MESSAGES: u64 = 200;

/// CNI code 11: try again later.
const TRY_AGAIN_LATER: u32 = 11;

#[test]
fn no_packet_is_lost_or_leaked_when_the_agent_is_killed_and_started_again() -> Result<()> {
    check("killed", Agent::kill)
}

#[test]
fn no_packet_is_lost_or_leaked_when_the_agent_is_stopped_and_started_again() -> Result<()> {
    check("stopped", |agent| {
        let status = agent.terminate()?;
        ensure!(status.success(), "{status}");
        Ok(())
    })
}

/// Streams that are allowed and streams that are not, of both protocols and families.
pub(super) struct Traffic {
    allowed: Vec<Stream>,
    denied: Vec<Stream>,
}

impl Traffic {
    pub(super) fn begin(lab: &Lab) -> Result<Self> {
        let mut traffic = Self { allowed: Vec::new(), denied: Vec::new() };
        for family in Family::BOTH {
            let web = lab.socket_address(&Host::pod("shop/web"), family, PORT)?;
            for protocol in [Tcp, Udp] {
                traffic.allowed.push(lab.stream(&Host::pod("shop/client"), protocol, web, 2000)?);
            }
            // A denied TCP stream would not start.
            traffic.denied.push(lab.stream(&Host::pod("shop/visitor"), Udp, web, 2000)?);
        }
        traffic.flow()?;
        Ok(traffic)
    }

    /// Waits until every stream has sent more messages, and allowed ones are answered.
    pub(super) fn flow(&mut self) -> Result<()> {
        let n_answers: Vec<_> =
            self.allowed.iter().map(|stream| stream.report().n_received).collect();
        let n_messages: Vec<_> = self.denied.iter().map(|stream| stream.report().n_sent).collect();
        for (stream, n) in self.allowed.iter_mut().zip(n_answers) {
            stream.wait_until("more answers", |report| report.n_received >= n + N_MESSAGES)?;
        }
        for (stream, n) in self.denied.iter_mut().zip(n_messages) {
            stream.wait_until("more messages", |report| report.n_sent >= n + N_MESSAGES)?;
        }
        Ok(())
    }

    pub(super) fn end(self, lab: &Lab, n_udp_before: u64) -> Result<()> {
        let mut n_udp = 0;
        for stream in self.denied {
            let report = stream.finish()?;
            ensure!(report.n_received == 0, "a denied stream is answered: {report:?}");
        }
        for (stream, protocol) in self.allowed.into_iter().zip([Tcp, Udp].into_iter().cycle()) {
            let report = stream.finish()?;
            ensure!(report.error.is_none() && report.n_missing() == 0, "{protocol}: {report:?}");
            n_udp += if protocol == Udp { report.n_sent } else { 0 };
        }
        let n_arrived = n_udp_arrived(lab)? - n_udp_before;
        ensure!(n_arrived == n_udp, "{n_arrived} datagrams arrived, {n_udp} were allowed");
        Ok(())
    }
}

pub(super) fn n_udp_arrived(lab: &Lab) -> Result<u64> {
    lab.netns(&Host::pod("shop/web"))?.counter(Counter::UdpArrived)
}

fn check(name: &str, end: impl FnOnce(Agent) -> Result<()>) -> Result<()> {
    let Some(mut lab) = lab(name)? else { return Ok(()) };
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    for pod in [web(), client(), visitor()] {
        lab.add_pod(pod)?;
    }
    let n_udp_before = n_udp_arrived(&lab)?;
    let mut traffic = Traffic::begin(&lab)?;
    let before = maps(&lab)?.map_state()?;

    end(lab.take_agent()?)?;
    traffic.flow()?;
    // TCP only, because datagrams are counted.
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)?;

    lab.start_agent()?;
    traffic.flow()?;
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)?;
    traffic.end(&lab, n_udp_before)?;
    let after = maps(&lab)?.map_state()?;
    ensure!(after.endpoints.keys().eq(before.endpoints.keys()), "{after:?} instead of {before:?}");

    // The new agent enforces changes.
    lab.manifests().write("deny.yaml", DENY_WEB)?;
    lab.manifests().remove("allow.yaml")?;
    expect(&lab, Passing::No, "shop/client", Tcp)
}

#[test]
fn what_changed_while_no_agent_ran_is_in_force_after_the_next_one_starts() -> Result<()> {
    let Some(mut lab) = lab("while-away")? else { return Ok(()) };
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    for pod in [web(), client(), visitor()] {
        lab.add_pod(pod)?;
    }
    lab.take_agent()?.kill()?;
    lab.manifests().write("deny.yaml", DENY_WEB)?;
    lab.manifests().remove("allow.yaml")?;
    lab.delete_pod("shop/visitor")?;
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    lab.start_agent()?;
    expect(&lab, Passing::No, "shop/client", Tcp)?;
    let endpoints = maps(&lab)?.map_state()?.endpoints;
    ensure!(endpoints.len() == 2, "the deleted pod is still an endpoint: {endpoints:?}");
    Ok(())
}

#[test]
fn without_an_agent_add_fails_with_try_again_later() -> Result<()> {
    let Some(mut lab) = lab("no-agent")? else { return Ok(()) };
    lab.take_agent()?.kill()?;
    let error = lab.add_pod(web()).err().context("a pod was added without an agent")?;
    let error = error.downcast::<CniError>()?;
    ensure!(error.code == TRY_AGAIN_LATER, "{error}");
    lab.start_agent()?;
    lab.add_pod(web())?;
    lab.expect(Passing::Yes, &Host::Office, &Host::pod("shop/web"), Tcp, PORT)
}

/// The capabilities of `deploy/base/daemonset.yaml`, which gives the reasons.
pub(super) const CAPABILITIES: [&str; 2] = ["NET_ADMIN", "SYS_ADMIN"];

#[test]
fn the_capabilities_of_the_daemon_set_are_enough_to_start_to_take_over_and_to_change() -> Result<()>
{
    let Some(mut lab) = lab_without_agent("capabilities", Wiring::Bridge)? else { return Ok(()) };

    lab.limit_capabilities(&CAPABILITIES);
    lab.start_agent()?;
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    for pod in [web(), client(), visitor()] {
        lab.add_pod(pod)?;
    }
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    lab.take_agent()?.kill()?;
    lab.start_agent()?;
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)?;
    lab.manifests().write("deny.yaml", DENY_WEB)?;
    lab.manifests().remove("allow.yaml")?;
    expect(&lab, Passing::No, "shop/client", Tcp)?;
    lab.delete_pod("shop/client")?;
    let status = lab.agent_config().ask(&["status", "-o", "json"])?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let is_read = status.pointer("/netfilter/is_read");
    ensure!(is_read == Some(&true.into()), "the rules of others are not read: {status:#}");
    ensure!(!lab.agent_log()?.contains("ERROR"), "{}", lab.agent_log()?);
    Ok(())
}
