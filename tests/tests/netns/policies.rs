//! Policies, labels, and pods change.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use netpol_common::ids::IfIndex;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Host, Passing, labels};
use netpol_lab::probe::Protocol::{Tcp, Udp};
use netpol_policy::dataplane::port::{Flows as _, Maps as _};

use super::{ALLOW_CLIENTS, DENY_ALL, DENY_WEB, PORT, client, expect, lab, maps, visitor, web};

#[test]
fn one_policy_denies_another_allows_and_without_them_everything_is_allowed() -> Result<()> {
    let Some(mut lab) = lab("open-close")? else { return Ok(()) };
    for pod in [web(), client(), visitor()] {
        lab.add_pod(pod)?;
    }
    for protocol in [Tcp, Udp] {
        expect(&lab, Passing::Yes, "shop/client", protocol)?;
    }
    lab.manifests().write("deny.yaml", DENY_WEB)?;
    for protocol in [Tcp, Udp] {
        expect(&lab, Passing::No, "shop/client", protocol)?;
        expect(&lab, Passing::No, "shop/visitor", protocol)?;
    }
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    for protocol in [Tcp, Udp] {
        expect(&lab, Passing::Yes, "shop/client", protocol)?;
        expect(&lab, Passing::No, "shop/visitor", protocol)?;
    }
    lab.manifests().remove("allow.yaml")?;
    expect(&lab, Passing::No, "shop/client", Tcp)?;
    lab.manifests().remove("deny.yaml")?;
    for protocol in [Tcp, Udp] {
        expect(&lab, Passing::Yes, "shop/client", protocol)?;
        expect(&lab, Passing::Yes, "shop/visitor", protocol)?;
    }
    Ok(())
}

#[test]
fn a_running_pod_gains_access_with_a_label_and_loses_it_with_the_label() -> Result<()> {
    let Some(mut lab) = lab("relabel")? else { return Ok(()) };
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    for pod in [web(), visitor()] {
        lab.add_pod(pod)?;
    }
    expect(&lab, Passing::No, "shop/visitor", Tcp)?;
    lab.relabel("shop/visitor", &labels(&[("role", "client")]))?;
    expect(&lab, Passing::Yes, "shop/visitor", Tcp)?;
    lab.relabel("shop/visitor", &labels(&[("role", "visitor")]))?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)
}

#[test]
fn the_own_node_reaches_an_isolated_pod_and_is_reached_by_it() -> Result<()> {
    let Some(mut lab) = lab("own-node")? else { return Ok(()) };
    lab.manifests().write("deny.yaml", DENY_ALL)?;
    lab.add_pod(web())?;
    let web = Host::pod("shop/web");
    for protocol in [Tcp, Udp] {
        lab.expect(Passing::Yes, &Host::Node, &web, protocol, PORT)?;
        lab.expect(Passing::No, &Host::Office, &web, protocol, PORT)?;
    }
    lab.expect(Passing::Yes, &web, &Host::Node, Tcp, 443)?;
    lab.expect(Passing::No, &web, &Host::Office, Tcp, 443)
}

#[test]
fn a_deleted_pod_leaves_no_entry_in_any_map() -> Result<()> {
    let Some(mut lab) = lab("del")? else { return Ok(()) };
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    lab.add_pod(web())?;
    let maps = maps(&lab)?;
    let before = maps.map_state()?;
    lab.add_pod(client())?;
    let ifindex = IfIndex(lab.host_interface("shop/client")?.1);
    ensure!(maps.map_state()?.endpoints.contains_key(&ifindex), "the pod is no endpoint");
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    lab.expect(Passing::No, &Host::Office, &Host::pod("shop/web"), Tcp, PORT)?;

    lab.delete_pod("shop/client")?;
    until("maps without the pod", LIMIT, || {
        let map_state = maps.map_state()?;
        let flows = maps.flows()?.keys().map(|key| key.ifindex).collect::<BTreeSet<_>>();
        let counters = maps.counters()?.keys().map(|key| key.ifindex).collect::<BTreeSet<_>>();
        Ok(if flows.contains(&ifindex) || counters.contains(&ifindex) {
            Look::NotYet(format!("flows of {flows:?}, counters of {counters:?}"))
        } else if map_state != before {
            Look::NotYet(format!("{map_state:?} instead of {before:?}"))
        } else {
            Look::Done(())
        })
    })
}
