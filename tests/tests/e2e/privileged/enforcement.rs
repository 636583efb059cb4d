//! From `kubectl apply` to packets, with the server up, down, and up again.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use netpol_lab::cluster::Cluster;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Lab, Passing, labels};
use netpol_policy::model::Kind;
use serde_json::Value;

use super::{ALLOW_CLIENTS, add_pods, expect, is_broken, is_synced, node, wait_for_sources};

#[test]
fn what_is_applied_is_in_force_and_what_is_deleted_is_not() -> Result<()> {
    let Some(mut lab) = node("e2e-applied")? else { return Ok(()) };
    add_pods(&mut lab)?;
    expect(&lab, Passing::Yes, "visitor")?;
    lab.with_cluster(async |cluster| cluster.apply(ALLOW_CLIENTS).await)?;
    expect(&lab, Passing::No, "visitor")?;
    expect(&lab, Passing::Yes, "client")?;
    lab.relabel("shop/visitor", &labels(&[("role", "client")]))?;
    expect(&lab, Passing::Yes, "visitor")?;
    lab.relabel("shop/client", &labels(&[("role", "visitor")]))?;
    expect(&lab, Passing::No, "client")?;
    lab.with_cluster(async |cluster| cluster.delete(Kind::NetworkPolicy, "shop", "web").await)?;
    expect(&lab, Passing::Yes, "client")?;
    check_requests(&lab)
}

/// Checks that the agent used all permissions of its role, and that no request was refused.
fn check_requests(lab: &Lab) -> Result<()> {
    let requests = lab.with_cluster(async |cluster| {
        let user = cluster.user();
        let plane = cluster.as_started();
        plane.map(|plane| plane.asked(&user.unwrap_or_default())).transpose()
    })?;
    let Some(requests) = requests else { return Ok(()) };
    let mut asked = BTreeSet::new();
    for event in &requests {
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let code = event.pointer("/responseStatus/code").and_then(Value::as_u64);
        // 404 for a pod that does not exist is no refusal.
        ensure!(matches!(code, Some(200 | 404)), "{event}");
        asked.insert((text("/objectRef/resource").to_owned(), text("/verb").to_owned()));
    }
    for resource in ["networkpolicies", "pods", "namespaces", "services", "nodes"] {
        ensure!(asked.contains(&(resource.to_owned(), "watch".to_owned())), "{asked:?}");
    }
    Ok(())
}

#[test]
fn policies_hold_while_the_server_is_away_and_what_happened_meanwhile_follows() -> Result<()> {
    let Some(mut lab) = node("e2e-away")? else { return Ok(()) };
    add_pods(&mut lab)?;
    lab.with_cluster(async |cluster| cluster.apply(ALLOW_CLIENTS).await)?;
    expect(&lab, Passing::No, "visitor")?;

    lab.with_cluster(async |cluster| {
        cluster.stop_server();
        Ok(())
    })?;
    wait_for_sources(&lab, is_broken)?;
    expect(&lab, Passing::No, "visitor")?;
    expect(&lab, Passing::Yes, "client")?;

    // The server is up, but unreachable for the agent, which does not see the changes.
    lab.with_cluster(async |cluster| cluster.start_server().await)?;
    lab.relabel("shop/visitor", &labels(&[("role", "client")]))?;
    lab.relabel("shop/client", &labels(&[("role", "visitor")]))?;
    expect(&lab, Passing::No, "visitor")?;
    expect(&lab, Passing::Yes, "client")?;
    let status = lab.agent_config().ask(&["status"])?;
    ensure!(status.contains("refused"), "{status}");

    lab.with_cluster(async |cluster| cluster.open_again())?;
    wait_for_sources(&lab, is_synced)?;
    expect(&lab, Passing::Yes, "visitor")?;
    expect(&lab, Passing::No, "client")
}

#[test]
fn an_agent_that_starts_without_a_server_changes_nothing_until_it_is_there() -> Result<()> {
    let Some(mut lab) = node("e2e-begin")? else { return Ok(()) };
    add_pods(&mut lab)?;
    lab.with_cluster(async |cluster| cluster.apply(ALLOW_CLIENTS).await)?;
    expect(&lab, Passing::No, "visitor")?;
    lab.take_agent()?.kill()?;
    lab.with_cluster(async |cluster| {
        cluster.stop_server();
        Ok(())
    })?;
    // It knows the maps, and no objects.
    lab.mute_agent();
    lab.begin_agent()?;
    wait_for_sources(&lab, is_broken)?;
    expect(&lab, Passing::No, "visitor")?;
    expect(&lab, Passing::Yes, "client")?;

    lab.with_cluster(async |cluster: &mut Cluster| {
        cluster.start_server().await?;
        cluster.delete(Kind::NetworkPolicy, "shop", "web").await?;
        cluster.open_again()
    })?;
    wait_for_sources(&lab, is_synced)?;
    expect(&lab, Passing::Yes, "visitor")
}

#[test]
fn an_invalid_policy_isolates_and_is_reported_as_an_event() -> Result<()> {
    let Some(mut lab) = node("e2e-event")? else { return Ok(()) };
    add_pods(&mut lab)?;
    // The server accepts it, because it does not validate our annotations.
    let policy = ALLOW_CLIENTS.replace(
        "namespace: shop }",
        "namespace: shop, annotations: { netpol/existing-connections: perhaps } }",
    );
    lab.with_cluster(async |cluster| cluster.apply(&policy).await)?;
    expect(&lab, Passing::No, "visitor")?;
    until("an Event", LIMIT, || {
        let events = lab.with_cluster(async |cluster| cluster.events("shop").await)?;
        let told = events.iter().find(|event| {
            let is =
                |path: &str, wanted: &str| event.pointer(path).is_some_and(|found| found == wanted);
            is("/regarding/name", "web")
                && is("/type", "Warning")
                && is("/reportingController", "netpol")
        });
        Ok(match told {
            Some(event) => {
                Look::Done(event["note"].as_str().is_some_and(|note| note.contains("perhaps")))
            }
            None => Look::NotYet(format!("{events:?}")),
        })
    })
    .and_then(|names_the_value| {
        ensure!(names_the_value, "the Event does not say what is wrong");
        Ok(())
    })
}
