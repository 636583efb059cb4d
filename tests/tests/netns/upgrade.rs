//! Another version of the agent takes over, with other maps.
//!
//! The old version is an agent of this build whose pins are renamed to another ABI version, which the new agent treats as
//! foreign. Or it is another program with other layouts, if one is given.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use netpol_common::maps::ABI_VERSION;
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Lab, Passing};
use netpol_lab::probe::Protocol::Tcp;
use netpol_policy::dataplane::port::Maps as _;

use super::restarts::{Traffic, n_udp_arrived};
use super::{ALLOW_CLIENTS, DENY_WEB, client, expect, lab, lab_without_agent, maps, visitor, web};

/// The folders below the pin root.
fn versions(pins: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(pins)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// The attached programs by their pins, on filters or on links.
fn links(folder: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder.join("links"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let older = "-exchange"; // up to ABI version 3
        names.insert(name.trim_end_matches("-migration").trim_end_matches(older).to_owned());
    }
    Ok(names)
}

fn check(name: &str, older: u32, change: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let Some(mut lab) = lab(name)? else { return Ok(()) };
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    for pod in [web(), client(), visitor()] {
        lab.add_pod(pod)?;
    }
    let n_udp_before = n_udp_arrived(&lab)?;
    let mut traffic = Traffic::begin(&lab)?;
    let before = maps(&lab)?.map_state()?;

    lab.take_agent()?.kill()?;
    let pins = lab.agent_config().pins.clone();
    let (own, other) = (pins.join(format!("v{ABI_VERSION}")), pins.join(format!("v{older}")));
    fs::rename(&own, &other).context("giving the pins another number")?;
    change(&other)?;
    let attached = links(&other)?;
    traffic.flow()?;

    lab.start_agent()?;
    traffic.flow()?;
    wait_for_one_version(&lab, &pins)?;
    traffic.flow()?;
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)?;
    traffic.end(&lab, n_udp_before)?;
    let after = maps(&lab)?.map_state()?;
    ensure!(after.endpoints == before.endpoints, "{after:?} instead of {before:?}");
    ensure!(links(&own)? == attached, "{:?} instead of {attached:?}", links(&own)?);

    // The new version enforces changes.
    lab.manifests().write("deny.yaml", DENY_WEB)?;
    lab.manifests().remove("allow.yaml")?;
    expect(&lab, Passing::No, "shop/client", Tcp)
}

/// The agent of an earlier build: `NETPOL_OLDER_AGENT=PATH`.
#[test]
fn no_packet_is_lost_or_leaked_when_another_program_is_replaced() -> Result<()> {
    let Some(older) = std::env::var_os("NETPOL_OLDER_AGENT").map(PathBuf::from) else {
        eprintln!("SKIP: NETPOL_OLDER_AGENT does not name the agent of an earlier build");
        return Ok(());
    };
    let Some(mut lab) = lab_without_agent("upgrade-program", Wiring::Bridge)? else {
        return Ok(());
    };
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    lab.use_agent(Some(&older));
    lab.start_agent()?;
    for pod in [web(), client(), visitor()] {
        lab.add_pod(pod)?;
    }
    let n_udp_before = n_udp_arrived(&lab)?;
    let mut traffic = Traffic::begin(&lab)?;
    let pins = lab.agent_config().pins.clone();
    let before = versions(&pins)?;
    lab.take_agent()?.kill()?;
    traffic.flow()?;
    lab.use_agent(None);
    lab.start_agent()?;
    traffic.flow()?;
    wait_for_one_version(&lab, &pins)?;
    eprintln!("from {before:?} to {:?}", versions(&pins)?);
    traffic.flow()?;
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)?;
    traffic.end(&lab, n_udp_before)?;
    lab.manifests().write("deny.yaml", DENY_WEB)?;
    lab.manifests().remove("allow.yaml")?;
    expect(&lab, Passing::No, "shop/client", Tcp)
}

pub(super) fn wait_for_one_version(lab: &Lab, pins: &Path) -> Result<()> {
    until("the end of the other version", LIMIT, || {
        let versions = versions(pins)?;
        Ok(if versions == [format!("v{ABI_VERSION}")] {
            Look::Done(())
        } else {
            Look::NotYet(format!("{versions:?}\n{}", lab.agent_log()?))
        })
    })
}

#[test]
fn no_packet_is_lost_or_leaked_when_an_older_version_is_replaced() -> Result<()> {
    check("upgrade", ABI_VERSION - 1, |_pins| Ok(()))
}

#[test]
fn no_packet_is_lost_or_leaked_when_a_newer_version_is_replaced() -> Result<()> {
    check("downgrade", ABI_VERSION + 1, |_pins| Ok(()))
}

/// The old version's flows are unreadable, so they are taken from the pods' sockets.
#[test]
fn no_packet_is_lost_or_leaked_when_connections_are_kept_in_another_form() -> Result<()> {
    check("upgrade-flows", ABI_VERSION - 1, |pins| {
        fs::remove_file(pins.join("FLOWS")).context("removing the pin of the connections")
    })
}
