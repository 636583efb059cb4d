//! A wedged API server: policies stay in force.

use anyhow::{Context as _, Result, ensure};
use netpol_agent::agent::SourceStatus;
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Lab, Passing, agent};
use netpol_lab::probe::Protocol::Tcp;
use netpol_policy::model::Kind;
use netpol_proto::{Request, Response};

use super::restarts::{Traffic, n_udp_arrived};
use super::{ALLOW_CLIENTS, DENY_WEB, client, expect, lab_without_agent, visitor, web};

/// Waits until the agent reports every kind as not listed.
fn wait_for_missing_kinds(lab: &Lab) -> Result<()> {
    until("an agent that lists", LIMIT, || {
        Ok(match agent::call(&lab.agent_config().socket(), &Request::Status) {
            Ok(Response::Error { message, .. }) => {
                ensure!(message.starts_with("not listed yet: "), "{message}");
                let from_before = "; policies are in force from before, not up to date since 20";
                ensure!(message.contains(from_before), "{message}");
                let is_told = |kind: &Kind| message.contains(kind.as_str());
                ensure!(Kind::BUILT_IN.iter().all(is_told), "{message}");
                Look::Done(())
            }
            other => Look::NotYet(format!("{other:?}")),
        })
    })
}

fn wait_for_sources(lab: &Lab, wanted: impl Fn(&SourceStatus) -> bool) -> Result<()> {
    until("the sources", LIMIT, || {
        let status = lab.status()?;
        Ok(if status.sources.values().all(&wanted) {
            Look::Done(())
        } else {
            Look::NotYet(format!("{:?}", status.sources))
        })
    })
}

#[test]
fn a_wedged_api_server_weakens_nothing_and_is_reported() -> Result<()> {
    let Some(mut lab) = lab_without_agent("wedged", Wiring::Bridge)? else { return Ok(()) };
    let api = lab.start_api_server()?;
    lab.start_agent()?;
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    for pod in [web(), client(), visitor()] {
        lab.add_pod(pod)?;
    }
    let n_udp_before = n_udp_arrived(&lab)?;
    let mut traffic = Traffic::begin(&lab)?;

    // The server accepts connections and never answers while an agent starts.
    api.hold();
    lab.mute_agent();
    lab.take_agent()?.kill()?;
    lab.begin_agent()?;
    wait_for_missing_kinds(&lab)?;
    traffic.flow()?;
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)?;
    let refused = lab.agent_config().ask(&["status"]).context("status of an agent that lists")?;
    let from_before = "policies are in force from before, not up to date since 20";
    ensure!(refused.contains(from_before) && refused.contains("not listed yet"), "{refused}");

    // The server answers with HTML: first to an agent that lists, then to one that watches.
    for _ in 0..2 {
        api.garble();
        api.release();
        wait_for_sources(&lab, |source| matches!(source, SourceStatus::Broken { .. }))?;
        traffic.flow()?;
        expect(&lab, Passing::Yes, "shop/client", Tcp)?;
        expect(&lab, Passing::No, "shop/visitor", Tcp)?;
        api.recover();
        lab.wait_for_agent()?;
        wait_for_sources(&lab, |source| matches!(source, SourceStatus::Synced { .. }))?;
    }
    traffic.end(&lab, n_udp_before)?;

    // Later changes are enforced.
    lab.manifests().write("deny.yaml", DENY_WEB)?;
    lab.manifests().remove("allow.yaml")?;
    expect(&lab, Passing::No, "shop/client", Tcp)
}

/// After a reboot the address of the API server's Service works only once kube-proxy has written its rules.
#[test]
fn an_agent_reaches_its_api_server_at_the_address_that_the_last_agent_saw() -> Result<()> {
    let Some(mut lab) = lab_without_agent("seen-last", Wiring::Bridge)? else { return Ok(()) };
    let api = lab.start_api_server()?;
    api.put_own_address().context("no endpoint slice")?;
    lab.start_agent()?;
    for pod in [web(), client()] {
        lab.add_pod(pod)?;
    }
    let file = lab.agent_config().state.join("api-servers.json");
    until("the addresses on disk", LIMIT, || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let is_there = text.contains(&api.address().to_string());
        Ok(if is_there { Look::Done(()) } else { Look::NotYet(text) })
    })?;

    lab.take_agent()?.kill()?;
    // Nobody listens at the configured address.
    let kubeconfig = lab.folder().join("kubeconfig");
    let text = std::fs::read_to_string(&kubeconfig)?;
    std::fs::write(&kubeconfig, text.replace(&api.address().to_string(), "127.0.0.1:1"))?;
    lab.start_agent()?;
    wait_for_sources(&lab, |source| matches!(source, SourceStatus::Synced { .. }))?;
    lab.manifests().write("deny.yaml", DENY_WEB)?;
    expect(&lab, Passing::No, "shop/client", Tcp)
}
