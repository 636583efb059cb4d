//! Frames whose sender cannot be told leave no pod, whether or not it is isolated.

use std::net::{Ipv4Addr, Ipv6Addr};

use netpol_lab::node::Lab;
use netpol_lab::packets::{Ends, Extension, Fragment, Packet, Segment};

use crate::fixture::{Arrival, addresses, check_isolated_or_not, ethernet, icmpv6, lab, pod_mac};

const DESTINATION_OPTIONS: u8 = 60;
const DOT1Q: u16 = 0x8100;
const DOT1AD: u16 = 0x88a8;
/// An ethertype for experiments (IEEE 802).
const EXPERIMENT: u16 = 0x88b5;

#[test]
pub(super) fn frames_that_cannot_be_attributed_leave_no_pod_isolated_or_not() {
    let Some(lab) = lab("hostile-opaque", &["evil", "victim", "target"]) else { return };
    let frames = frames(&lab);
    check_isolated_or_not(&lab, &frames);
}

/// Frames of the pod `evil` to the pod `target`, most of them with an address of the pod `victim`.
fn frames(lab: &Lab) -> Vec<(&'static str, Vec<u8>, Arrival)> {
    let ((own_v4, own_v6), (victim_v4, victim_v6), (to_v4, to_v6)) =
        (addresses(lab, "evil"), addresses(lab, "victim"), addresses(lab, "target"));
    let (from, to) = (pod_mac(lab, "evil"), pod_mac(lab, "target"));
    let frame = |packet: Packet| {
        let ethertype = if matches!(packet.ends, Ends::V4(..)) { 0x0800 } else { 0x86dd };
        ethernet(to, from, ethertype, &packet.bytes())
    };
    let tagged = |tags: &[u16], packet: &Packet| {
        let inner = if matches!(packet.ends, Ends::V4(..)) { 0x0800_u16 } else { 0x86dd };
        let Some((first, rest)) = tags.split_first() else { panic!("no tag") };
        let mut content = Vec::new();
        for next in rest.iter().copied().chain([inner]) {
            // Identifier 0.
            content.extend([0, 0]);
            content.extend(next.to_be_bytes());
        }
        content.extend(packet.bytes());
        ethernet(to, from, *first, &content)
    };
    let v4 = |src: Ipv4Addr, src_port| datagram(Ends::V4(src, to_v4), src_port);
    let v6 = |src: Ipv6Addr, src_port| datagram(Ends::V6(src, to_v6), src_port);
    let mut frames = vec![
        ("own IPv4", frame(v4(own_v4, 1)), Arrival::Yes),
        ("own IPv6", frame(v6(own_v6, 1)), Arrival::Yes),
        ("tag, own IPv4", tagged(&[DOT1Q], &v4(own_v4, 2)), Arrival::No),
        ("tag, IPv4", tagged(&[DOT1Q], &v4(victim_v4, 3)), Arrival::No),
        ("2 tags, IPv4", tagged(&[DOT1Q, DOT1Q], &v4(victim_v4, 4)), Arrival::No),
        ("3 tags, IPv4", tagged(&[DOT1AD, DOT1Q, DOT1Q], &v4(victim_v4, 5)), Arrival::No),
        ("tag, IPv6", tagged(&[DOT1AD], &v6(victim_v6, 6)), Arrival::No),
        ("2 tags, IPv6", tagged(&[DOT1AD, DOT1Q], &v6(victim_v6, 7)), Arrival::No),
        ("3 tags, IPv6", tagged(&[DOT1Q, DOT1Q, DOT1Q], &v6(victim_v6, 8)), Arrival::No),
        ("experiment", ethernet(to, from, EXPERIMENT, &[7; 46]), Arrival::No),
    ];
    // The first fragment ends within the TCP header.
    let tiny = |ends, src_port: u16| {
        let ports = [src_port.to_be_bytes(), 80_u16.to_be_bytes()].concat();
        let segment = Segment::Other { protocol: 6, bytes: [ports.as_slice(), &[0; 4]].concat() };
        let fragment = Some(Fragment { id: 77, offset_units: 0, more: true });
        frame(Packet { fragment, ..Packet::plain(ends, segment) })
    };
    frames.push(("tiny fragment, IPv4", tiny(Ends::V4(victim_v4, to_v4), 9), Arrival::No));
    frames.push(("tiny fragment, IPv6", tiny(Ends::V6(victim_v6, to_v6), 9), Arrival::No));
    frames.push(("own tiny fragment, IPv4", tiny(Ends::V4(own_v4, to_v4), 10), Arrival::No));
    // As a receiver's kernel walks them: any number of headers.
    for (name, n_extensions) in [("8 extensions", 8), ("9 extensions", 9), ("40 extensions", 40)] {
        let extensions = vec![Extension { kind: DESTINATION_OPTIONS, len: 0 }; n_extensions];
        let datagram = Packet { extensions: extensions.clone(), ..v6(victim_v6, 11) };
        frames.push((name, frame(datagram), Arrival::No));
        for (kind, name) in [(134, "router advertisement"), (137, "redirect")] {
            let message = icmpv6(own_v6, to_v6, kind, &[0; 40]);
            let segment = Segment::Other { protocol: 58, bytes: message };
            let ends = Ends::V6(own_v6, to_v6);
            let packet = Packet { extensions: extensions.clone(), ..Packet::plain(ends, segment) };
            frames.push((name, frame(packet), Arrival::No));
        }
    }
    for (name, kind, fragment) in [
        ("router advertisement", 134, None),
        ("redirect", 137, None),
        ("router advertisement in fragments", 134, Some(0)),
        ("neighbour advertisement in fragments", 136, Some(0)),
        ("neighbour solicitation in fragments", 135, Some(0)),
    ] {
        let segment = Segment::Other { protocol: 58, bytes: icmpv6(own_v6, to_v6, kind, &[3; 40]) };
        let fragment = fragment.map(|offset_units| Fragment { id: 78, offset_units, more: true });
        let ends = Ends::V6(own_v6, to_v6);
        frames.push((
            name,
            frame(Packet { fragment, ..Packet::plain(ends, segment) }),
            Arrival::No,
        ));
    }
    // ICMP redirect and router advertisement (RFC 1256) in IPv4.
    for (name, kind) in [("ICMP redirect", 5), ("ICMP router advertisement", 9)] {
        let segment = Segment::Icmp { kind, id: 1, quoted: None };
        frames.push((name, frame(Packet::plain(Ends::V4(own_v4, to_v4), segment)), Arrival::No));
    }
    frames
}

fn datagram(ends: Ends, src_port: u16) -> Packet {
    Packet::plain(ends, Segment::Udp { src_port, dst_port: 4001 })
}
