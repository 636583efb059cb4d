//! Frames: mostly well-formed ones between few addresses, and some of every other kind.

use std::net::{Ipv4Addr, Ipv6Addr};

use netpol_lab::packets::{AUTHENTICATION, Ends, Extension, Fragment, Frame, Packet, Segment};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::port;
use crate::cluster_model::{v4, v6};

fn v4_universe() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        12 => (1_u8..=4).prop_map(v4),
        2 => Just(v4(9)),
        1 => Just(Ipv4Addr::new(192, 168, 7, 9)),
        1 => Just(Ipv4Addr::UNSPECIFIED),
    ]
}

fn v6_universe() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![
        12 => (1_u16..=4).prop_map(v6),
        2 => Just(v6(9)),
        1 => Just(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
        1 => Just(Ipv6Addr::UNSPECIFIED),
    ]
}

fn tcp_flags() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(0x02), 3 => Just(0x12), 4 => Just(0x10), 1 => Just(0x11), 1 => Just(0x04), 1 => any::<u8>()]
}

fn segment() -> BoxedStrategy<Segment> {
    let ports = || (port(), port());
    prop_oneof![
        6 => (ports(), tcp_flags()).prop_map(|((src_port, dst_port), flags)| Segment::Tcp { src_port, dst_port, flags }),
        4 => ports().prop_map(|(src_port, dst_port)| Segment::Udp { src_port, dst_port }),
        1 => ports().prop_map(|(src_port, dst_port)| Segment::Sctp { src_port, dst_port }),
        2 => icmp(Just(None).boxed()),
        1 => (any::<u8>(), vec(any::<u8>(), 0..24)).prop_map(|(protocol, bytes)| Segment::Other { protocol, bytes }),
    ]
    .boxed()
}

fn icmp(quoted: BoxedStrategy<Option<Box<Packet>>>) -> impl Strategy<Value = Segment> {
    let kind = prop_oneof![3 => select(vec![0_u8, 8, 128, 129]), 3 => select(vec![1, 2, 3, 4, 11, 12]), 1 => 130_u8..=143, 1 => any::<u8>()];
    (kind, 0_u16..3, quoted).prop_map(|(kind, id, quoted)| Segment::Icmp { kind, id, quoted })
}

fn ends() -> impl Strategy<Value = Ends> {
    prop_oneof![
        (v4_universe(), v4_universe()).prop_map(|(src, dst)| Ends::V4(src, dst)),
        (v6_universe(), v6_universe()).prop_map(|(src, dst)| Ends::V6(src, dst)),
    ]
}

fn extensions() -> impl Strategy<Value = Vec<Extension>> {
    let kind = select(vec![0_u8, 43, AUTHENTICATION, 60, 135, 139, 140]);
    let extension = (kind, 0_u8..3).prop_map(|(kind, len)| Extension { kind, len });
    prop_oneof![4 => Just(Vec::new()), 1 => vec(extension, 1..10)]
}

fn fragment() -> impl Strategy<Value = Option<Fragment>> {
    let offset_units = prop_oneof![3 => Just(0), 1 => 1_u16..4, 3 => Just(185), 1 => 0_u16..0x1fff];
    let fragment = (0_u32..3, offset_units, any::<bool>())
        .prop_map(|(id, offset_units, more)| Some(Fragment { id, offset_units, more }));
    prop_oneof![4 => Just(None), 1 => fragment]
}

fn packet_of(segment: BoxedStrategy<Segment>) -> impl Strategy<Value = Packet> {
    let option_words = prop_oneof![5 => Just(0_u8), 1 => 1_u8..=10];
    (ends(), option_words, extensions(), fragment(), segment).prop_map(
        |(ends, option_words, extensions, fragment, segment)| Packet {
            ends,
            option_words,
            extensions,
            fragment,
            segment,
        },
    )
}

fn packet() -> impl Strategy<Value = Packet> {
    let quoted = packet_of(segment()).prop_map(|packet| Some(Box::new(packet))).boxed();
    prop_oneof![8 => packet_of(segment()), 1 => packet_of(icmp(quoted).boxed())]
}

pub(crate) fn frame() -> impl Strategy<Value = Frame> {
    let len_bytes = prop_oneof![12 => Just(usize::MAX), 1 => 1_usize..100];
    let other = (any::<u16>(), vec(any::<u8>(), 1..64));
    prop_oneof![
        24 => (packet(), len_bytes).prop_map(|(packet, len_bytes)| Frame::Ip(packet, len_bytes)),
        1 => v4_universe().prop_map(|sender| Frame::Arp { sender }),
        1 => packet().prop_map(|packet| Frame::Tagged(Box::new(Frame::whole(packet)))),
        1 => other.prop_map(|(ether_type, bytes)| Frame::Other { ether_type, bytes }),
        1 => vec(any::<u8>(), 1..80).prop_map(|bytes| Frame::Other { ether_type: 0x0800, bytes }),
        1 => vec(any::<u8>(), 1..80).prop_map(|bytes| Frame::Other { ether_type: 0x86dd, bytes }),
    ]
}
