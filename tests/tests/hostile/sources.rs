//! Source addresses: a pod sends from its own addresses only, and nobody else sends from a pod's.

use std::net::IpAddr;

use netpol_lab::node::topology::{NODE, OFFICE};
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Host, Lab, PodSpec};
use netpol_lab::packets::{Ends, Fragment, Frame, Packet, Segment};

use crate::fixture::{
    Arrival, addresses, apply_policy, arrivals, check, ethernet, lab, mac, pod, pod_mac,
};

#[test]
pub(super) fn another_pods_source_address_arrives_nowhere() {
    let Some(lab) = lab("hostile-source", &["evil", "victim", "target"]) else { return };
    let ((evil_v4, evil_v6), (victim_v4, victim_v6), (target_v4, target_v6)) =
        (addresses(&lab, "evil"), addresses(&lab, "victim"), addresses(&lab, "target"));
    let (from, to) = (pod_mac(&lab, "evil"), pod_mac(&lab, "target"));
    let datagram = |ends, dst_port| {
        let segment = Segment::Udp { src_port: 4001, dst_port };
        let mut frame = Frame::whole(Packet::plain(ends, segment)).bytes();
        frame.splice(..12, [to, from].concat());
        frame
    };
    let arp = |sender: std::net::Ipv4Addr| {
        let mut request = vec![0, 1, 8, 0, 6, 4, 0, 1];
        request.extend(from);
        request.extend(sender.octets());
        request.extend([0; 6]);
        request.extend(target_v4.octets());
        ethernet([0xff; 6], from, 0x0806, &request)
    };
    check(
        &lab,
        &pod("evil"),
        &pod("target"),
        &[
            ("own IPv4", datagram(Ends::V4(evil_v4, target_v4), 4001), Arrival::Yes),
            ("own IPv6", datagram(Ends::V6(evil_v6, target_v6), 4001), Arrival::Yes),
            ("own ARP", arp(evil_v4), Arrival::Yes),
            ("IPv4", datagram(Ends::V4(victim_v4, target_v4), 4002), Arrival::No),
            ("IPv6", datagram(Ends::V6(victim_v6, target_v6), 4002), Arrival::No),
            ("ARP", arp(victim_v4), Arrival::No),
        ],
    );
}

#[test]
pub(super) fn a_pods_address_arrives_through_no_uplink_isolated_or_not() {
    let Some(lab) = lab("hostile-uplink", &["victim", "target"]) else { return };
    let frames = from_outside(&lab);
    check(&lab, &Host::Office, &pod("target"), &frames);
    let from_victim = serde_json::json!({
        "podSelector": { "matchLabels": { "app": "target" } },
        "policyTypes": ["Ingress"],
        "ingress": [{ "from": [
            { "podSelector": { "matchLabels": { "app": "victim" } } },
            { "ipBlock": { "cidr": "192.0.2.0/24" } },
            { "ipBlock": { "cidr": "2001:db8::/32" } },
        ] }],
    });
    apply_policy(&lab, "from-victim", &from_victim).unwrap();
    check(&lab, &Host::Office, &pod("target"), &frames);
    let drops = lab.agent_config().ask(&["drops", "--output", "json"]).unwrap();
    assert!(drops.contains("\"reason\":\"impersonated\""), "{drops}");
}

/// Frames of a host outside to the pod `target`, through the node.
fn from_outside(lab: &Lab) -> Vec<(&'static str, Vec<u8>, Arrival)> {
    let [IpAddr::V4(own_v4), IpAddr::V6(own_v6)] = OFFICE else { panic!("{OFFICE:?}") };
    let ((victim_v4, victim_v6), (to_v4, to_v6)) =
        (addresses(lab, "victim"), addresses(lab, "target"));
    let from = mac(lab.netns(&Host::Office).unwrap(), "eth0");
    let to = mac(lab.netns(&Host::Node).unwrap(), "eth0");
    let frame = |packet: Packet| {
        let ethertype = if matches!(packet.ends, Ends::V4(..)) { 0x0800 } else { 0x86dd };
        ethernet(to, from, ethertype, &packet.bytes())
    };
    let datagram = |ends, src_port| Packet::plain(ends, Segment::Udp { src_port, dst_port: 4001 });
    let fragmented = |ends, src_port| {
        let fragment = Some(Fragment { id: 79, offset_units: 0, more: true });
        Packet { fragment, ..datagram(ends, src_port) }
    };
    vec![
        ("own, IPv4", frame(datagram(Ends::V4(own_v4, to_v4), 1)), Arrival::Yes),
        ("own, IPv6", frame(datagram(Ends::V6(own_v6, to_v6), 2)), Arrival::Yes),
        ("victim's, IPv4", frame(datagram(Ends::V4(victim_v4, to_v4), 3)), Arrival::No),
        ("victim's, IPv6", frame(datagram(Ends::V6(victim_v6, to_v6), 4)), Arrival::No),
        ("victim's fragment, IPv4", frame(fragmented(Ends::V4(victim_v4, to_v4), 5)), Arrival::No),
        ("victim's fragment, IPv6", frame(fragmented(Ends::V6(victim_v6, to_v6), 6)), Arrival::No),
        ("target's own, IPv4", frame(datagram(Ends::V4(to_v4, to_v4), 7)), Arrival::No),
    ]
}

#[test]
pub(super) fn a_pod_that_may_forward_sends_from_no_address_of_another_pod_or_of_a_node() {
    let Some(lab) = lab("hostile-forward", &["evil", "victim", "target"]) else { return };
    // A pod of another node.
    let elsewhere = PodSpec::new("default/elsewhere", &[], &[]);
    let addresses_elsewhere: [IpAddr; 2] =
        ["10.244.2.7", "fd00:10:244:2::7"].map(|address| address.parse().unwrap());
    let object = elsewhere.object("elsewhere", &addresses_elsewhere);
    lab.manifests().write_object(&elsewhere.file(), &object).unwrap();
    for file in ["pod-default-evil.yaml", "namespace-default.yaml"] {
        allow_forwarding(&lab, file).unwrap();
    }
    let from = |last: IpAddr, port| match last {
        IpAddr::V4(v4) => (Ends::V4(v4, addresses(&lab, "target").0), port),
        IpAddr::V6(v6) => (Ends::V6(v6, addresses(&lab, "target").1), port),
    };
    let (own, to) = (pod_mac(&lab, "evil"), pod_mac(&lab, "target"));
    let frame = |(ends, src_port)| {
        let segment = Segment::Udp { src_port, dst_port: 4001 };
        let mut frame = Frame::whole(Packet::plain(ends, segment)).bytes();
        frame.splice(..12, [to, own].concat());
        frame
    };
    let (victim_v4, victim_v6) = addresses(&lab, "victim");
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let arp = |sender: [u8; 4]| {
        let mut message = vec![0, 1, 8, 0, 6, 4, 0, 1];
        message.extend(own);
        message.extend(sender);
        message.extend([0; 6]);
        message.extend(addresses(&lab, "target").0.octets());
        ethernet([0xff; 6], own, 0x0806, &message)
    };
    let [own_v4, own_v6] = [addresses(&lab, "evil").0.into(), addresses(&lab, "evil").1.into()];
    let guest = ("somebody's", frame(from(ip("198.51.100.7"), 1)), Arrival::Yes);
    until("a pod that forwards", LIMIT, || {
        let arrived = arrivals(&lab, &pod("evil"), &pod("target"), std::slice::from_ref(&guest.1))?;
        Ok(if arrived == [true] { Look::Done(()) } else { Look::NotYet("it does not".into()) })
    })
    .unwrap();
    check(
        &lab,
        &pod("evil"),
        &pod("target"),
        &[
            ("own", frame(from(own_v4, 2)), Arrival::Yes),
            ("own, IPv6", frame(from(own_v6, 3)), Arrival::Yes),
            guest,
            ("somebody's, IPv6", frame(from(ip("2001:db8:7::7"), 4)), Arrival::Yes),
            ("victim's", frame(from(victim_v4.into(), 5)), Arrival::No),
            ("victim's, IPv6", frame(from(victim_v6.into(), 6)), Arrival::No),
            ("remote pod's", frame(from(addresses_elsewhere[0], 7)), Arrival::No),
            ("remote pod's, IPv6", frame(from(addresses_elsewhere[1], 8)), Arrival::No),
            ("node's", frame(from(NODE[0], 9)), Arrival::No),
            ("node's, IPv6", frame(from(NODE[1], 10)), Arrival::No),
            ("gateway's", frame(from(ip("10.244.1.1"), 11)), Arrival::No),
            ("somebody's ARP", arp([198, 51, 100, 7]), Arrival::Yes),
            ("victim's ARP", arp(victim_v4.octets()), Arrival::No),
            ("gateway's ARP", arp([10, 244, 1, 1]), Arrival::No),
        ],
    );
}

/// Annotates an object of the lab.
fn allow_forwarding(lab: &Lab, file: &str) -> anyhow::Result<()> {
    lab.manifests().annotate(file, "netpol/allow-forwarding", "true")
}
