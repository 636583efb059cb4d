//! New pods are attached through clsact filters, which are migrated to TCX links when the node is calm.

use anyhow::{Result, ensure};
use netpol_common::maps::ABI_VERSION;
use netpol_datapath::Attaching;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Lab, Passing};
use netpol_lab::probe::Protocol::Tcp;

use super::restarts::{Traffic, n_udp_arrived};
use super::{ALLOW_CLIENTS, client, expect, lab, visitor, web};

/// Waits until all pods are attached through links. Returns the number of pods seen with filters.
pub(super) fn wait_for_links(lab: &Lab) -> Result<usize> {
    let mut n_seen = 0;
    until("the migration of the last filter", LIMIT, || {
        let n = lab.status()?.n_awaiting_migration;
        n_seen = n_seen.max(n.unwrap_or_default());
        Ok(if n == Some(0) { Look::Done(n_seen) } else { Look::NotYet(format!("{n:?}")) })
    })
}

#[test]
fn no_packet_is_lost_or_leaked_when_the_filters_of_new_pods_become_links() -> Result<()> {
    if Attaching::of_this_kernel() == Attaching::Filters {
        println!("SKIP: this kernel has no TCX links");
        return Ok(());
    }
    let Some(mut lab) = lab("calm")? else { return Ok(()) };
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    for pod in [web(), client(), visitor()] {
        lab.add_pod(pod)?;
    }
    let n_udp_before = n_udp_arrived(&lab)?;
    let mut traffic = Traffic::begin(&lab)?;
    ensure!(wait_for_links(&lab)? > 0, "no program was attached through a filter");
    traffic.flow()?;
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)?;
    traffic.end(&lab, n_udp_before)?;
    let links = lab.agent_config().pins.join(format!("v{ABI_VERSION}")).join("links");
    for entry in std::fs::read_dir(links)? {
        ensure!(entry?.file_type()?.is_file(), "a pinned filter is left");
    }
    let log = lab.agent_log()?;
    ensure!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    Ok(())
}
