//! Neighbour discovery and multicast listener discovery: they carry no payload and claim no address of another device.

use std::net::Ipv6Addr;

use netpol_common::mac::Mac;
use netpol_lab::node::{Host, Lab};
use serde_json::json;

use crate::fixture::{
    Arrival, addresses, apply_policy, check, check_isolated_or_not, ethernet, icmpv6, lab, mac,
    pod, pod_mac,
};

const ROUTER_ALERT: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];

#[test]
pub(super) fn messages_of_the_link_carry_no_payload_past_the_isolation() {
    let Some(lab) = lab("hostile-payload", &["evil", "target"]) else { return };
    let nothing = json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] });
    apply_policy(&lab, "deny-all", &nothing).unwrap();
    let (own, to) = (addresses(&lab, "evil").1, addresses(&lab, "target").1);
    let own_link_local = link_local(pod_mac(&lab, "evil"));
    let mut frames = Vec::new();
    for kind in (130..=137).chain([143]) {
        for (hop_limit, src) in [(255, own), (64, own), (1, own_link_local)] {
            let message = icmpv6(src, to, kind, &[kind; 240]);
            frames.push(("payload", packet(&lab, src, to, hop_limit, &[], &message), Arrival::No));
        }
    }
    let all_reports: Ipv6Addr = "ff02::16".parse().unwrap();
    let report = [[0, 0, 0, 1, 4, 0, 0, 0].as_slice(), &all_reports.octets()].concat();
    let report = icmpv6(own_link_local, all_reports, 143, &report);
    let report = |src, hop_limit| packet(&lab, src, all_reports, hop_limit, &ROUTER_ALERT, &report);
    frames.push(("report", report(own_link_local, 1), Arrival::Yes));
    frames.push(("report with hop limit", report(own_link_local, 64), Arrival::No));
    frames.push(("report from a global address", report(own, 1), Arrival::No));
    let asked = neighbour(&lab, own, solicited(to), 135, to, 1);
    frames.push(("solicitation", asked, Arrival::Yes));
    check(&lab, &pod("evil"), &pod("target"), &frames);
}

#[test]
pub(super) fn a_pod_advertises_no_address_of_another_device_isolated_or_not() {
    let Some(lab) = lab("hostile-advert", &["evil", "victim", "target"]) else { return };
    let frames = claims(&lab);
    check_isolated_or_not(&lab, &frames);
}

/// Neighbour discovery about addresses of the pod `evil`, of the pod `victim`, and of the pods' gateway.
fn claims(lab: &Lab) -> Vec<(&'static str, Vec<u8>, Arrival)> {
    let own = addresses(lab, "evil").1;
    let to = addresses(lab, "target").1;
    let own_link_local = link_local(pod_mac(lab, "evil"));
    let gateway = link_local(mac(lab.netns(&Host::Node).unwrap(), "cni0"));
    let victim = link_local(pod_mac(lab, "victim"));
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let mut frames = Vec::new();
    for (name, target, arrival) in [
        ("own address", own, Arrival::Yes),
        ("own link-local address", own_link_local, Arrival::Yes),
        ("gateway's link-local address", gateway, Arrival::No),
        ("victim's link-local address", victim, Arrival::No),
        ("victim's address", addresses(lab, "victim").1, Arrival::No),
        ("nobody's link-local address", "fe80::bad".parse().unwrap(), Arrival::No),
    ] {
        frames.push((name, neighbour(lab, own, all_nodes, 136, target, 2), arrival));
        frames.push((name, neighbour(lab, own, to, 136, target, 2), arrival));
        // A solicitation tells the receiver the MAC address of its source.
        frames.push((name, neighbour(lab, target, solicited(to), 135, to, 1), arrival));
        // Duplicate address detection, by which a kernel gives its own address up.
        let probe = neighbour(lab, Ipv6Addr::UNSPECIFIED, solicited(target), 135, target, 0);
        frames.push((name, probe, arrival));
    }
    frames
}

/// A solicitation (135) or advertisement (136), with the MAC address of the pod `evil` in this option, if it is not 0.
fn neighbour(
    lab: &Lab,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    kind: u8,
    target: Ipv6Addr,
    option: u8,
) -> Vec<u8> {
    let flags = if kind == 136 { 0x20 } else { 0 };
    let mut body = [[flags, 0, 0, 0].as_slice(), &target.octets()].concat();
    if option != 0 {
        body.extend([option, 1]);
        body.extend(pod_mac(lab, "evil"));
    }
    packet(lab, src, dst, 255, &[], &icmpv6(src, dst, kind, &body))
}

/// A packet of the pod `evil` to the pod `target`, or to all pods.
fn packet(
    lab: &Lab,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    hop_limit: u8,
    extension: &[u8],
    message: &[u8],
) -> Vec<u8> {
    let next = if extension.is_empty() { 58 } else { 0 };
    let len = u16::try_from(extension.len() + message.len()).unwrap();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([next, hop_limit]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(extension);
    packet.extend(message);
    let to = match dst.octets() {
        [0xff, .., a, b, c, d] => [0x33, 0x33, a, b, c, d],
        _ => pod_mac(lab, "target"),
    };
    ethernet(to, pod_mac(lab, "evil"), 0x86dd, &packet)
}

fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    Ipv6Addr::from(Mac::new(mac).link_local().0)
}

fn solicited(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}
