//! Policy changes under live connections through Services.

use std::net::{IpAddr, UdpSocket};

use anyhow::Result;
use netpol_common::ids::IfIndex;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Bridge, Family, Host, Masquerade, Passing, Service, Shape, Stream};
use netpol_lab::probe::{Probe, Protocol};
use netpol_policy::dataplane::port::{Flows as _, Maps as _};
use serde_json::json;

use crate::cluster::{
    apply_policy, can_run, egress_only_to, expect, lab, maps, pod, policy_file, sockets,
    wait_for_services,
};

/// Number of unanswered messages after which a stream counts as cut.
const N_UNANSWERED: u64 = 50;

/// Number of answers that show that a stream works.
const N_ANSWERS: u64 = 50;

/// Interval between messages, microseconds.
const PACE_US: u64 = 2000;

fn wait_until_cut(stream: &mut Stream) {
    // Few, because the send buffer of an unanswered TCP connection fills soon.
    stream.wait_until("the cut", |report| report.n_missing() >= N_UNANSWERED).unwrap();
}

#[test]
fn connections_through_a_service_are_cut_by_a_policy_and_go_on_when_they_are_allowed_again() {
    if !can_run() {
        return;
    }
    let lab = lab("live-vip", &["client", "web"], |lab| lab.set_bridge(Bridge::Plain).or(Ok(())));
    let service = Service::new("web", 1, sockets(&lab, &pod("web"), 80));
    lab.apply_services(Shape::Nftables, Masquerade::All, std::slice::from_ref(&service)).unwrap();
    let allowed = json!([{ "podSelector": { "matchLabels": { "app": "web" } } }]);
    let allow = egress_only_to("client", &allowed);
    let deny =
        egress_only_to("client", &json!([{ "podSelector": { "matchLabels": { "app": "x" } } }]));
    apply_policy(&lab, "egress", &json!({}), &allow);
    let vips: Vec<_> = service.addresses.iter().map(|address| (*address, 80).into()).collect();
    expect(
        &lab,
        &pod("client"),
        &[(Passing::Yes, vips.clone()), (Passing::No, sockets(&lab, &Host::Office, 80))],
    );
    let mut streams = Vec::new();
    for family in Family::BOTH {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let vip = service.socket_address(family).unwrap();
            streams.push(lab.stream(&pod("client"), protocol, vip, PACE_US).unwrap());
        }
    }
    for stream in &mut streams {
        stream.wait_for_answers(N_ANSWERS).unwrap();
    }
    apply_policy(&lab, "egress", &json!({}), &deny);
    for stream in &mut streams {
        wait_until_cut(stream);
    }
    expect(&lab, &pod("client"), &[(Passing::No, vips)]);
    apply_policy(&lab, "egress", &json!({}), &allow);
    for mut stream in streams {
        stream.wait_for_answers(N_ANSWERS).unwrap();
        let report = stream.finish().unwrap();
        assert_eq!(report.error, None);
    }
}

#[test]
fn a_policy_that_keeps_existing_connections_denies_only_new_ones() {
    if !can_run() {
        return;
    }
    let lab = lab("live-keep", &["client", "web"], |_| Ok(()));
    let web = sockets(&lab, &pod("web"), 80);
    expect(&lab, &pod("client"), &[(Passing::Yes, web.clone())]);
    let mut streams = Vec::new();
    for &destination in &web {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            streams.push(lab.stream(&pod("client"), protocol, destination, PACE_US).unwrap());
        }
    }
    for stream in &mut streams {
        stream.wait_for_answers(N_ANSWERS).unwrap();
    }
    let isolate = json!({
        "podSelector": { "matchLabels": { "app": "web" } },
        "policyTypes": ["Ingress"],
    });
    apply_policy(&lab, "isolate", &json!({ "netpol/existing-connections": "keep" }), &isolate);
    expect(&lab, &pod("client"), &[(Passing::No, web.clone())]);
    for stream in &mut streams {
        stream.wait_for_answers(N_ANSWERS).unwrap();
    }
    apply_policy(&lab, "isolate", &json!({}), &isolate);
    for stream in &mut streams {
        wait_until_cut(stream);
    }
    let n_received = |streams: &[Stream]| -> Vec<u64> {
        streams.iter().map(|stream| stream.report().n_received).collect()
    };
    let before = n_received(&streams);
    expect(&lab, &pod("client"), &[(Passing::No, web)]);
    assert_eq!(n_received(&streams), before, "answers come although the connections are cut");
}

#[test]
fn an_audited_policy_reports_and_drops_nothing_through_a_service_either() {
    if !can_run() {
        return;
    }
    let lab = lab("live-audit", &["client", "web"], |lab| lab.set_bridge(Bridge::Plain).or(Ok(())));
    let web = sockets(&lab, &pod("web"), 80);
    let service = Service::new("web", 1, web.clone());
    lab.apply_services(Shape::Nftables, Masquerade::All, std::slice::from_ref(&service)).unwrap();
    let vips: Vec<_> = service.addresses.iter().map(|address| (*address, 80).into()).collect();
    let deny =
        egress_only_to("client", &json!([{ "podSelector": { "matchLabels": { "app": "x" } } }]));
    apply_policy(&lab, "egress", &json!({ "netpol/mode": "audit" }), &deny);
    let all = [web.clone(), vips].concat();
    expect(&lab, &pod("client"), &[(Passing::Yes, all.clone())]);
    // Reports about a Service name the real backend.
    let n_told = |backend: &IpAddr| -> Result<usize> {
        let drops = lab.agent_config().ask(&["drops", "--output", "json"])?;
        let parts = [
            "\"is_dropped\":false",
            "\"reason\":\"audited\"",
            "\"direction\":\"egress\"",
            r#""pod":{"namespace":"default","name":"client"}"#,
            &backend.to_string(),
        ];
        Ok(drops.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count())
    };
    for &addr in &all {
        let backend = web.iter().find(|web| web.is_ipv4() == addr.is_ipv4()).unwrap().ip();
        until(&format!("a report of what would be dropped to {addr}"), LIMIT, || {
            let n_before = n_told(&backend)?;
            // Nothing is reported before the policy is in force.
            lab.probe(&[(pod("client"), vec![Probe::tcp(addr)])])?;
            let n = n_told(&backend)?;
            Ok(if n > n_before { Look::Done(()) } else { Look::NotYet(n.to_string()) })
        })
        .unwrap();
    }
    lab.manifests().remove(&policy_file("egress")).unwrap();
}

#[test]
fn a_deleted_pod_leaves_nothing_of_its_connections_through_services() {
    if !can_run() {
        return;
    }
    let mut lab =
        lab("live-del", &["client", "web"], |lab| lab.set_bridge(Bridge::Plain).or(Ok(())));
    let web = sockets(&lab, &pod("web"), 80);
    let services = [Service::new("web", 1, web.clone())];
    lab.apply_services(Shape::Nftables, Masquerade::All, &services).unwrap();
    wait_for_services(&lab, &services);
    let peers = json!([{ "podSelector": { "matchLabels": { "app": "web" } } }]);
    apply_policy(&lab, "egress", &json!({}), &egress_only_to("client", &peers));
    let vips: Vec<_> = services[0].addresses.iter().map(|address| (*address, 80).into()).collect();
    let node = sockets(&lab, &Host::Office, 80);
    expect(&lab, &pod("client"), &[(Passing::Yes, vips), (Passing::No, node)]);
    // In fragments, too.
    lab.netns(&pod("client"))
        .unwrap()
        .inside(|| Ok(UdpSocket::bind("0.0.0.0:0")?.send_to(&[7; 8000], web[0])?))
        .unwrap();
    let ifindex = IfIndex(lab.host_interface("default/client").unwrap().1);
    let maps = maps(&lab);
    let left = || -> Result<[usize; 5]> {
        let of = |owner: &IfIndex| *owner == ifindex;
        Ok([
            maps.flows()?.keys().filter(|key| of(&key.ifindex)).count(),
            maps.fragments()?.keys().filter(|key| of(&key.ifindex)).count(),
            maps.backends()?.keys().filter(|key| of(&key.ifindex)).count(),
            maps.counters()?.keys().filter(|key| of(&key.ifindex)).count(),
            maps.map_state()?.endpoints.keys().filter(|key| of(key)).count(),
        ])
    };
    let before = left().unwrap();
    assert!(before.iter().all(|n| *n > 0), "{before:?}");
    lab.delete_pod("default/client").unwrap();
    until("maps without the pod", LIMIT, || {
        let left = left()?;
        let n_handles = maps.flow_handles()?.iter().filter(|key| key.ifindex == ifindex).count();
        Ok(if left == [0; 5] && n_handles == 0 {
            Look::Done(())
        } else {
            Look::NotYet(format!("{left:?}, {n_handles} deferred flow handles"))
        })
    })
    .unwrap();
}
