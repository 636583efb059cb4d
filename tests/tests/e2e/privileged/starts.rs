//! A pod starts during an outage of the API server.

use anyhow::{Context as _, Result, ensure};
use netpol_lab::node::Passing;
use netpol_lab::node::cni::CniError;

use super::{ALLOW_CLIENTS, add_pods, expect, is_broken, is_synced, node, pod, wait_for_sources};

/// CNI code 11: try again later.
const TRY_AGAIN_LATER: u32 = 11;

#[test]
fn a_pod_that_the_agent_knows_starts_while_the_server_is_away_and_another_waits() -> Result<()> {
    let Some(mut lab) = node("e2e-starts")? else { return Ok(()) };
    add_pods(&mut lab)?;
    lab.with_cluster(async |cluster| cluster.apply(ALLOW_CLIENTS).await)?;
    expect(&lab, Passing::No, "visitor")?;
    let known = pod("known", ("role", "client"));
    let known_netns = lab.prepare_pod(&known)?;
    let is_known = |lab: &netpol_lab::node::Lab| -> Result<bool> {
        Ok(lab.status()?.n_objects.values().sum::<usize>() > 0)
    };
    ensure!(is_known(&lab)?);
    lab.with_cluster(async |cluster| {
        cluster.close();
        Ok(())
    })?;
    wait_for_sources(&lab, is_broken)?;

    // The agent has seen this pod's object before the outage.
    lab.connect_pod(known, &known_netns, |_| Ok(()))?;
    expect(&lab, Passing::Yes, "known")?;

    // The agent does not know this pod's labels, so it refuses the ADD.
    let unknown = pod("unknown", ("role", "client"));
    let netns = lab.prepare_pod(&unknown)?;
    let refused = lab.connect_pod(unknown.clone(), &netns, |_| Ok(()));
    let error = refused.err().context("a pod that nobody knows has started")?;
    let said: &CniError = error.downcast_ref().context("not the plugin's word")?;
    ensure!(said.code == TRY_AGAIN_LATER, "{said}");
    let said = said.to_string();
    ensure!(said.contains("shop/unknown") && said.contains("API server"), "{said}");

    lab.with_cluster(async |cluster| cluster.open_again())?;
    wait_for_sources(&lab, is_synced)?;
    lab.add_pod(unknown)?;
    expect(&lab, Passing::Yes, "unknown")
}
