//! Policies that are learned from real connections allow these and nothing else, and their rules count what they allow.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use netpol_lab::binaries::binary;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Host, Lab, Passing};
use netpol_lab::probe::Protocol;
use serde_json::Value;

use super::{PORT, client, expect, lab, visitor, web};

/// What `kubectl netpol learn` writes from the connections that the agent knows.
fn learn(lab: &Lab) -> Result<String> {
    let flows = lab.folder().join("flows.json");
    fs::write(&flows, lab.agent_config().ask(&["flows", "-o", "json"])?)?;
    let mut command = Command::new(binary("kubectl-netpol")?);
    command.args(["learn", "-n", "shop", "--enforce", "--flows"]).arg(flows);
    command.arg("-f").arg(lab.manifests().folder());
    let output = command.output()?;
    let problems = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{problems}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The connections that the rules of a policy have decided; `None` if none of its rules is in force.
fn n_connections(lab: &Lab, policy: &str) -> Result<Option<u64>> {
    let report: Value = serde_json::from_str(&lab.agent_config().ask(&["rules", "-o", "json"])?)?;
    let rules = report.get("rules").and_then(Value::as_array).into_iter().flatten();
    let is_of_policy =
        |rule: &&Value| rule.pointer("/policy/name").is_some_and(|name| name == policy);
    let counts = rules.filter(is_of_policy).filter_map(|rule| rule.get("n_connections")?.as_u64());
    Ok(counts.reduce(|a, b| a + b))
}

/// Policies without comments, which say how often something was seen.
fn without_comments(policies: &str) -> Vec<&str> {
    policies.lines().filter(|line| !line.trim_start().starts_with('#')).collect()
}

#[test]
fn policies_learned_from_the_connections_of_two_pods_allow_these_and_no_others() -> Result<()> {
    let Some(mut lab) = lab("learn")? else { return Ok(()) };
    for pod in [web(), client(), visitor()] {
        lab.add_pod(pod)?;
    }
    expect(&lab, Passing::Yes, "shop/client", Protocol::Tcp)?;
    let learned = learn(&lab)?;
    lab.manifests().write("learned.yaml", &learned)?;
    let counted = || -> Result<[Option<u64>; 2]> {
        Ok([n_connections(&lab, "learned-web")?, n_connections(&lab, "learned-client")?])
    };
    // Before that, what is dropped below would pass.
    until("rules in force", LIMIT, || {
        let is_in_force = counted()?.iter().all(Option::is_some);
        Ok(if is_in_force { Look::Done(()) } else { Look::NotYet("none".to_owned()) })
    })?;
    let (client, visitor) = (Host::pod("shop/client"), Host::pod("shop/visitor"));
    expect(&lab, Passing::No, "shop/visitor", Protocol::Tcp)?;
    lab.expect(Passing::No, &client, &visitor, Protocol::Tcp, PORT)?;
    expect(&lab, Passing::No, "shop/client", Protocol::Udp)?;
    expect(&lab, Passing::Yes, "shop/client", Protocol::Tcp)?;
    // Each end has counted a connection of each family.
    let counted = counted()?;
    ensure!(counted.iter().all(|n| n.is_some_and(|n| n >= 2)), "{counted:?}");
    ensure!(without_comments(&learn(&lab)?) == without_comments(&learned), "{learned}");
    Ok(())
}
