//! Faults are reported, and valid policies stay in force.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use netpol_datapath::Attaching;
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Host, Lab, Passing, PodSpec, agent};
use netpol_lab::probe::Protocol::Tcp;
use netpol_proto::{Attachment, Check, Request, Response};

use super::calm::wait_for_links;
use super::{ALLOW_CLIENTS, PORT, client, expect, lab, lab_without_agent, visitor, web};

/// Waits until one line of the agent's log has all these parts.
fn wait_for_line(lab: &Lab, parts: &[&str]) -> Result<()> {
    until(&format!("a line with {parts:?}"), LIMIT, || {
        let log = lab.agent_log()?;
        Ok(if log.lines().any(|line| parts.iter().all(|part| line.contains(part))) {
            Look::Done(())
        } else {
            Look::NotYet(log)
        })
    })
}

#[test]
fn malformed_yaml_is_reported_with_its_file_and_the_rest_stays_in_force() -> Result<()> {
    let Some(mut lab) = lab("malformed")? else { return Ok(()) };
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    for pod in [web(), client(), visitor()] {
        lab.add_pod(pod)?;
    }
    lab.manifests().write("broken.yaml", "apiVersion: v1\nkind: [Pod\nmetadata: {")?;
    wait_for_line(&lab, &["broken.yaml"])?;
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)?;
    // Changes of the valid files are still applied.
    lab.manifests().remove("allow.yaml")?;
    expect(&lab, Passing::Yes, "shop/visitor", Tcp)
}

#[test]
fn an_invalid_policy_is_reported_with_object_and_field_and_still_isolates() -> Result<()> {
    let Some(mut lab) = lab("invalid")? else { return Ok(()) };
    for pod in [web(), client()] {
        lab.add_pod(pod)?;
    }
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    let invalid = ALLOW_CLIENTS.replace("port: 80", "port: 80000");
    lab.manifests().write("invalid.yaml", &invalid)?;
    let field = "spec.ingress[0].ports[0].port";
    wait_for_line(&lab, &["shop/allow-clients", field, "80000"])?;
    expect(&lab, Passing::No, "shop/client", Tcp)
}

#[test]
fn an_unknown_field_is_reported_and_allows_nothing() -> Result<()> {
    let Some(mut lab) = lab("unknown-field")? else { return Ok(()) };
    for pod in [web(), client()] {
        lab.add_pod(pod)?;
    }
    // A rule whose `from` is misspelt would allow every peer.
    lab.manifests().write("unknown.yaml", &ALLOW_CLIENTS.replace("- from:", "- form:"))?;
    wait_for_line(&lab, &["shop/allow-clients", "spec.ingress[0].form"])?;
    expect(&lab, Passing::No, "shop/client", Tcp)
}

#[test]
fn a_second_agent_refuses_to_start_and_harms_nothing() -> Result<()> {
    let Some(mut lab) = lab("second")? else { return Ok(()) };
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    for pod in [web(), client(), visitor()] {
        lab.add_pod(pod)?;
    }
    let mut elsewhere = lab.agent_config().clone();
    elsewhere.state = lab.folder().join("elsewhere");
    // It detects the other agent by the socket, and by the pins.
    for config in [lab.agent_config(), &elsewhere] {
        let said = run_agent(&lab, config.command()?)?;
        ensure!(said.contains("another agent is running on this node"), "{said}");
    }
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)?;
    lab.add_pod(PodSpec::new("shop/late", &[], &[PORT]))?;
    lab.expect(Passing::No, &Host::pod("shop/late"), &Host::pod("shop/web"), Tcp, PORT)
}

#[test]
fn without_a_bpf_file_system_the_agent_says_so_in_one_sentence() -> Result<()> {
    let Some(lab) = lab_without_agent("no-bpffs", Wiring::Bridge)? else { return Ok(()) };
    let mut config = lab.agent_config().clone();
    // bpffs can be mounted in neither: the first does not exist, the second must not be changed.
    for (pins, arg) in
        [("/proc/netpol-nowhere/netpol", "mount"), ("/run/netpol-lab/netpol", "require")]
    {
        config.pins = pins.into();
        let mut command = config.command()?;
        command.args(["--bpffs", arg]);
        let said = run_agent(&lab, command)?;
        let sentences: Vec<_> =
            said.lines().filter(|line| line.contains("BPF file system")).collect();
        let parent = pins.trim_end_matches("/netpol");
        ensure!(sentences.len() == 1 && said.contains(parent), "{said}");
    }
    Ok(())
}

#[test]
fn without_a_capability_that_it_needs_the_agent_says_so_in_one_sentence() -> Result<()> {
    let Some(mut lab) = lab_without_agent("not-permitted", Wiring::Bridge)? else { return Ok(()) };
    for capabilities in [&["NET_ADMIN", "BPF", "PERFMON"][..], &["SYS_ADMIN"], &["NET_RAW"]] {
        lab.limit_capabilities(capabilities);
        let said = run_agent(&lab, lab.agent_config().command()?)?;
        let is_told = said.contains("not permitted to load and attach eBPF programs: run as root");
        let n_errors = said.lines().filter(|line| line.starts_with("Error")).count();
        ensure!(is_told && n_errors <= 1, "{capabilities:?}: {said}");
    }
    Ok(())
}

#[test]
fn a_check_fails_while_a_program_is_detached_and_succeeds_again_afterwards() -> Result<()> {
    if Attaching::of_this_kernel() == Attaching::Filters {
        println!("SKIP: a removed filter is attached again too fast");
        return Ok(());
    }
    let Some(mut lab) = lab("taken-off")? else { return Ok(()) };
    lab.add_pod(web())?;
    let (_, host_ifindex) = lab.host_interface("shop/web")?;
    let attachment =
        Attachment { container_id: "taken-off-1".to_owned(), container_ifname: "eth0".to_owned() };
    let check = Request::Check(Check { attachment, host_ifindex });
    let socket = lab.agent_config().socket();
    wait_for_links(&lab)?;
    let links =
        lab.agent_config().pins.join(format!("v{}/links", netpol_common::maps::ABI_VERSION));
    let link = links.join(format!("{host_ifindex}-pod_ingress"));
    let expected = format!("the programs on interface {host_ifindex} are gone");
    // The agent may look in the same moment.
    until("a CHECK that fails", LIMIT, || {
        if link.exists() {
            std::fs::remove_file(&link)?;
        }
        Ok(match agent::call(&socket, &check)? {
            Response::Ok => Look::NotYet("one that succeeds".to_owned()),
            Response::Error { message, .. } => {
                ensure!(message == expected, "{message}");
                Look::Done(())
            }
        })
    })?;
    until("a CHECK that succeeds again", LIMIT, || {
        let answer = agent::call(&socket, &check)?;
        Ok(if answer == Response::Ok {
            Look::Done(())
        } else {
            Look::NotYet(format!("{answer:?}"))
        })
    })
}

/// Runs an agent that must fail; returns its output.
fn run_agent(lab: &Lab, mut command: Command) -> Result<String> {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = lab.netns(&Host::Node)?.spawn(&mut command)?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "the agent succeeded: {said}");
    Ok(said)
}
