//! Source addresses: a pod sends from its own addresses only.

use netpol_lab::packets::{Ends, Frame, Packet, Segment};

use crate::fixture::{Arrival, addresses, check, ethernet, lab, pod, pod_mac};

#[test]
fn another_pods_source_address_arrives_nowhere() {
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
