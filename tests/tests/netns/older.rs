//! Pods that run before the agent starts: older than netpol's installation, or with the agent's state lost.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use netpol_agent::agent::Protection;
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Family, Host, Lab, Passing, PodSpec, Stream};
use netpol_lab::probe::Protocol::{Tcp, Udp};

use super::restarts::CAPABILITIES;
use super::{ALLOW_CLIENTS, DENY_ALL, PORT, client, expect, lab, lab_without_agent, visitor, web};

/// Messages on each stream, in each phase.
const N_MESSAGES: u64 = 200;

/// Allows egress of clients to web.
pub(super) const CLIENTS_MAY_LEAVE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: clients-may-leave, namespace: shop }
spec:
  podSelector: { matchLabels: { role: client } }
  policyTypes: [Egress]
  egress:
    - to: [{ podSelector: { matchLabels: { app: web } } }]
";

/// Isolates a pod in both directions, so that a connection passes only in its original direction.
fn close_all_but_clients(lab: &Lab) -> Result<()> {
    lab.manifests().write("deny.yaml", DENY_ALL)?;
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    lab.manifests().write("leave.yaml", CLIENTS_MAY_LEAVE)
}

fn tcp_streams(lab: &Lab) -> Result<Vec<Stream>> {
    let client = Host::pod("shop/client");
    let mut streams = Vec::new();
    for family in Family::BOTH {
        let web = lab.socket_address(&Host::pod("shop/web"), family, PORT)?;
        streams.push(lab.stream(&client, Tcp, web, 2000)?);
    }
    for stream in &mut streams {
        stream.wait_for_answers(N_MESSAGES)?;
    }
    Ok(streams)
}

fn go_on_and_end(mut streams: Vec<Stream>) -> Result<()> {
    for stream in &mut streams {
        stream.wait_for_answers(N_MESSAGES)?;
    }
    for stream in streams {
        let report = stream.finish()?;
        ensure!(report.error.is_none() && report.n_missing() == 0, "{report:?}");
    }
    Ok(())
}

/// Waits until the agent has `n` endpoints and no unprotected pods.
fn wait_for_protection(lab: &Lab, n_endpoints: usize) -> Result<()> {
    until("protected pods", LIMIT, || {
        let status = lab.status()?;
        let n = status
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.protection == Protection::Ready && endpoint.ifindex != 0)
            .count();
        Ok(if n == n_endpoints && status.endpoints.len() == n {
            Look::Done(())
        } else {
            Look::NotYet(format!("{:?}\n{}", status.endpoints, lab.agent_log()?))
        })
    })
}

/// Adopts pods under traffic; `hide` removes sources by which the agent would find them.
fn check(name: &str, hide: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let Some(mut lab) = lab_without_agent(name, Wiring::Bridge)? else { return Ok(()) };
    for pod in [web(), client(), visitor()] {
        lab.add_older_pod(pod)?;
    }
    hide(&lab)?;
    close_all_but_clients(&lab)?;
    let streams = tcp_streams(&lab)?;
    let web = lab.socket_address(&Host::pod("shop/web"), Family::V4, PORT)?;
    let mut forbidden = lab.stream(&Host::pod("shop/visitor"), Tcp, web, 2000)?;
    forbidden.wait_for_answers(N_MESSAGES)?;

    lab.limit_capabilities(&CAPABILITIES);
    lab.start_agent()?;
    wait_for_protection(&lab, 3)?;
    let n_answered = forbidden.report().n_received;
    go_on_and_end(streams)?;
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)?;
    // Denied connections are cut although they are older; the others continue.
    let n_late = forbidden.report().n_received.saturating_sub(n_answered);
    ensure!(n_late < N_MESSAGES / 10, "{n_late} messages of a forbidden connection were answered");
    // Now they are ordinary endpoints.
    for pod in ["shop/web", "shop/client", "shop/visitor"] {
        lab.delete_pod(pod)?;
    }
    wait_for_protection(&lab, 0)
}

#[test]
fn pods_older_than_netpol_get_their_policy_and_keep_their_connections() -> Result<()> {
    check("older", |_lab| Ok(()))
}

#[test]
fn without_the_runtimes_results_they_are_found_by_their_network_namespaces() -> Result<()> {
    check("older-no-results", |lab| {
        for entry in fs::read_dir(lab.network().results())? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    })
}

/// The launcher of a virtual machine renames the device and gives it to a bridge; Kata leaves it without an address.
#[test]
fn a_pod_whose_device_was_renamed_and_has_no_address_is_found_by_the_runtimes_result() -> Result<()>
{
    let Some(mut lab) = lab_without_agent("older-renamed", Wiring::Bridge)? else { return Ok(()) };
    lab.add_older_pod(web())?;
    lab.add_older_pod(visitor())?;
    let inside = lab.netns(&Host::pod("shop/visitor"))?;
    inside.configure(
        "link set eth0 down\nlink set eth0 name eth0-nic\naddress flush dev eth0-nic\nlink set eth0-nic up\n",
    )?;
    lab.start_agent()?;
    wait_for_protection(&lab, 2)
}

#[test]
fn a_pod_that_is_not_found_is_reported_as_unprotected_until_it_is() -> Result<()> {
    let Some(mut lab) = lab("unprotected")? else { return Ok(()) };
    lab.manifests().write("deny.yaml", DENY_ALL)?;
    lab.add_pod(web())?;
    // It has an address, so it runs, but it has no interface.
    let lost = visitor();
    let address = "10.244.1.200".parse()?;
    lab.manifests().write_object(&lost.file(), &lost.object("lost", &[address]))?;
    until("the pod is reported", LIMIT, || {
        let status = lab.status()?;
        let found = status.endpoints.iter().find(|endpoint| &*endpoint.pod.name == "visitor");
        Ok(match found {
            Some(found) => {
                ensure!(found.protection == Protection::Unprotected && found.ifindex == 0);
                Look::Done(())
            }
            None => Look::NotYet(format!("{status:?}")),
        })
    })?;
    let text = lab.agent_config().ask(&["status"])?;
    let line = text.lines().find(|line| line.contains("shop/visitor"));
    let line = line.context("it is missing from the text")?;
    ensure!(line.contains("unprotected") && line.contains("interface not found"), "{line}");
    // Its sandbox appears without an ADD.
    lab.manifests().remove(&lost.file())?;
    lab.add_older_pod(lost)?;
    wait_for_protection(&lab, 2)?;
    lab.add_pod(client())?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)
}

/// Checks the adoption after `hide` has removed state.
fn check_loss(name: &str, lose: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let Some(mut lab) = lab(name)? else { return Ok(()) };
    for pod in [web(), client(), visitor()] {
        lab.add_pod(pod)?;
    }
    close_all_but_clients(&lab)?;
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)?;
    let streams = tcp_streams(&lab)?;
    lab.take_agent()?.kill()?;
    lose(&lab)?;
    lab.start_agent()?;
    wait_for_protection(&lab, 3)?;
    go_on_and_end(streams)?;
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Udp)?;
    lab.add_pod(PodSpec::new("shop/late", &[], &[PORT]))?;
    wait_for_protection(&lab, 4)
}

#[test]
fn after_the_bpf_file_system_was_wiped_the_records_lead_to_the_pods() -> Result<()> {
    check_loss("wiped", |lab| {
        fs::remove_dir_all(&lab.agent_config().pins).context("removing the pins")
    })
}

#[test]
fn without_records_no_pod_is_cut_off_and_all_are_found_again() -> Result<()> {
    check_loss("no-records", |lab| {
        fs::remove_file(lab.agent_config().state.join("endpoints.json"))
            .context("removing the records")
    })
}

#[test]
fn without_records_and_without_pins_all_are_found_again() -> Result<()> {
    check_loss("nothing-left", |lab| {
        fs::remove_file(lab.agent_config().state.join("endpoints.json"))?;
        fs::remove_dir_all(&lab.agent_config().pins).context("removing the pins")
    })
}
