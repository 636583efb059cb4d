//! MAC addresses: a pod sends from its own and receives frames for its own only, so that it cannot divert other pods' frames.

use std::path::Path;

use netpol_lab::node::netns::Netns;
use netpol_lab::node::{Host, Lab, Passing, PodSpec};
use netpol_lab::packets::{Ends, Frame, Packet, Segment};
use netpol_lab::privilege::{Need, met};
use netpol_lab::probe::Protocol;
use serde_json::{Value, json};

use crate::fixture::{
    Arrival, addresses, check, check_isolated_or_not, ethernet, lab, mac, pod, pod_mac, record,
};

/// No device has this address.
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0xbe, 0xef];

#[test]
pub(super) fn a_frame_with_another_source_mac_leaves_no_pod_isolated_or_not() {
    let Some(lab) = lab("hostile-mac", &["evil", "victim", "target"]) else { return };
    let frames = frames(&lab);
    // From here on the bridge knows where the victim is.
    lab.expect(Passing::Yes, &pod("victim"), &pod("target"), Protocol::Tcp, 80).unwrap();
    check(&lab, &pod("evil"), &pod("target"), &frames);
    // The packets of established flows take another path through the programs.
    check(&lab, &pod("evil"), &pod("target"), &frames);
    let victim = pod_mac(&lab, "victim");
    let fdb = fdb(&lab, victim);
    let (interface, _) = lab.host_interface("default/victim").unwrap();
    assert!(fdb.contains(&interface), "{fdb}");
    check_isolated_or_not(&lab, &frames);
}

#[test]
pub(super) fn a_flooded_frame_for_another_mac_reaches_no_pod() {
    let Some(lab) = lab("hostile-flood", &["evil", "target"]) else { return };
    let from = pod_mac(&lab, "target");
    let own = pod_mac(&lab, "evil");
    let ((evil_v4, _), (target_v4, _)) = (addresses(&lab, "evil"), addresses(&lab, "target"));
    let datagram = |to: [u8; 6], src_port| {
        let segment = Segment::Udp { src_port, dst_port: 4001 };
        with_macs(to, from, &Packet::plain(Ends::V4(target_v4, evil_v4), segment))
    };
    let frames = [
        ("own", datagram(own, 1), Arrival::Yes),
        ("broadcast", datagram([0xff; 6], 2), Arrival::Yes),
        ("unknown", datagram(NOBODY, 3), Arrival::No),
        // The same flow as before.
        ("unknown, established", datagram(NOBODY, 1), Arrival::No),
    ];
    let (last, others) = frames.split_last().unwrap();
    check(&lab, &pod("target"), &pod("evil"), others);
    let recorded =
        record(&lab, &pod("target"), &pod("evil"), std::slice::from_ref(&last.1)).unwrap();
    assert!(!recorded.contains(&last.1), "{} arrived", last.0);
}

#[test]
pub(super) fn a_pod_whose_mac_a_later_plugin_changes_has_its_network() {
    let tuning = Need::File { path: "/usr/lib/cni/tuning", from: "containernetworking-plugins" };
    if !met(&[tuning]) {
        return;
    }
    let Some(mut lab) = lab("hostile-tuning", &["target"]) else { return };
    let text = std::fs::read_to_string(lab.folder().join("10-lab.conflist")).unwrap();
    let mut conflist: Value = serde_json::from_str(&text).unwrap();
    let plugins = conflist.get_mut("plugins").unwrap().as_array_mut().unwrap();
    plugins.push(json!({ "type": "tuning", "mac": "0a:58:0a:f4:01:63" }));
    let own = netpol_lab::binaries::binary("netpol-cni").unwrap();
    let folders: Vec<&Path> = own.parent().into_iter().collect();
    lab.configure(&conflist, &folders).unwrap();
    lab.add_pod(PodSpec::new("default/tuned", &[("app", "tuned")], &[80])).unwrap();
    assert_eq!(pod_mac(&lab, "tuned"), [0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x63]);
    for (from, to) in [("tuned", "target"), ("target", "tuned")] {
        lab.expect(Passing::Yes, &pod(from), &pod(to), Protocol::Tcp, 80).unwrap();
    }
}

#[test]
pub(super) fn a_pod_that_takes_the_mac_of_another_has_no_network() {
    let Some(lab) = lab("hostile-take", &["evil", "victim", "target"]) else { return };
    lab.expect(Passing::Yes, &pod("evil"), &pod("target"), Protocol::Tcp, 80).unwrap();
    let victim = text(pod_mac(&lab, "victim"));
    let evil: &Netns = lab.netns(&pod("evil")).unwrap();
    evil.configure(&format!("link set eth0 address {victim}\n")).unwrap();
    lab.await_packets(Passing::No, &pod("evil"), &pod("target"), Protocol::Tcp, 80).unwrap();
    lab.expect(Passing::Yes, &pod("victim"), &pod("target"), Protocol::Tcp, 80).unwrap();
}

/// Frames of the pod `evil` to the pod `target` from its own IP addresses.
fn frames(lab: &Lab) -> Vec<(&'static str, Vec<u8>, Arrival)> {
    let ((own_v4, own_v6), (to_v4, to_v6)) = (addresses(lab, "evil"), addresses(lab, "target"));
    let (own, to) = (pod_mac(lab, "evil"), pod_mac(lab, "target"));
    let victim = pod_mac(lab, "victim");
    let gateway = mac(lab.netns(&Host::Node).unwrap(), "cni0");
    let v4 = |from, src_port| {
        let segment = Segment::Udp { src_port, dst_port: 4001 };
        with_macs(to, from, &Packet::plain(Ends::V4(own_v4, to_v4), segment))
    };
    let v6 = |from, src_port| {
        let segment = Segment::Udp { src_port, dst_port: 4001 };
        with_macs(to, from, &Packet::plain(Ends::V6(own_v6, to_v6), segment))
    };
    let arp = |from: [u8; 6], sender: [u8; 6], operation| {
        let mut message = vec![0, 1, 8, 0, 6, 4, 0, operation];
        message.extend(sender);
        message.extend(own_v4.octets());
        message.extend([0; 6]);
        message.extend(to_v4.octets());
        ethernet([0xff; 6], from, 0x0806, &message)
    };
    vec![
        ("own, IPv4", v4(own, 1), Arrival::Yes),
        ("own, IPv6", v6(own, 1), Arrival::Yes),
        ("own, ARP", arp(own, own, 1), Arrival::Yes),
        ("victim's, IPv4", v4(victim, 2), Arrival::No),
        ("victim's, IPv6", v6(victim, 2), Arrival::No),
        ("gateway's, IPv4", v4(gateway, 3), Arrival::No),
        ("nobody's, IPv4", v4(NOBODY, 4), Arrival::No),
        ("victim's, ARP", arp(victim, victim, 2), Arrival::No),
        ("victim's in the ARP message", arp(own, victim, 2), Arrival::No),
    ]
}

fn with_macs(to: [u8; 6], from: [u8; 6], packet: &Packet) -> Vec<u8> {
    let mut frame = Frame::whole(packet.clone()).bytes();
    frame.splice(..12, [to, from].concat());
    frame
}

/// What the bridge has learned about a MAC address.
fn fdb(lab: &Lab, mac: [u8; 6]) -> String {
    let mut command = std::process::Command::new("bridge");
    command.args(["fdb", "show", "br", "cni0"]);
    let output = lab.netns(&Host::Node).unwrap().inside(|| Ok(command.output()?)).unwrap();
    let all = String::from_utf8(output.stdout).unwrap();
    all.lines().filter(|line| line.starts_with(&text(mac))).collect::<Vec<_>>().join("\n")
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
