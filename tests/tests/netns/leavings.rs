//! A pod's flows and counters are removed with the pod.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use netpol_common::ids::IfIndex;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Family, Host, Lab};
use netpol_lab::probe::Protocol;
use netpol_policy::dataplane::port::{Flows as _, Maps as _};

use super::{ALLOW_CLIENTS, PORT, client, lab, maps, web};

/// The interfaces that have flows or counters.
fn remembered(lab: &Lab) -> Result<BTreeSet<IfIndex>> {
    let maps = maps(lab)?;
    let flows = maps.flows()?.into_keys().map(|key| key.ifindex);
    let counters = maps.counters()?.into_keys().map(|key| key.ifindex);
    Ok(flows.chain(counters).collect())
}

#[test]
fn flows_of_a_deleted_pod_are_removed_and_those_of_others_are_not() -> Result<()> {
    let Some(mut lab) = lab("leavings")? else { return Ok(()) };
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    for pod in [web(), client()] {
        lab.add_pod(pod)?;
    }
    let destination = lab.socket_address(&Host::pod("shop/web"), Family::V4, PORT)?;
    let mut stream = lab.stream(&Host::pod("shop/client"), Protocol::Udp, destination, 1000)?;
    stream.wait_for_answers(100)?;
    let (_, client) = lab.host_interface("shop/client")?;
    let (_, web) = lab.host_interface("shop/web")?;
    let both = BTreeSet::from([client, web].map(IfIndex));
    ensure!(remembered(&lab)?.is_superset(&both), "a flow is missing");
    drop(stream);
    lab.delete_pod("shop/client")?;
    until("the garbage collection of a pod", LIMIT, || {
        let (remembered, n_awaiting_gc) = (remembered(&lab)?, lab.status()?.n_awaiting_gc);
        let is_over = !remembered.contains(&IfIndex(client)) && n_awaiting_gc == 0;
        Ok(if is_over { Look::Done(()) } else { Look::NotYet(format!("{remembered:?}")) })
    })?;
    ensure!(remembered(&lab)?.contains(&IfIndex(web)), "flows of a running pod were removed");
    Ok(())
}
