//! Small worlds: images, frames and changes that meet each other often.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use netpol_agent::compile::{AllowMap, EndpointImage, Image};
use netpol_agent::ebpf::Program;
use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, Identity, IfIndex, PortBe, Protocol, RuleId};
use netpol_common::keys::{
    AddressKey, AllowKey, AllowMapKey, AllowValue, EndpointValue, PrefixKey,
};
use netpol_tests::packets::{AUTHENTICATION, Ends, Extension, Frame, Packet, Piece, Segment};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// The endpoints; the device behind them is none.
pub(crate) const PODS: [u32; 3] = [100, 101, 102];
/// A device with programs and no endpoint.
pub(crate) const NO_POD: u32 = 103;
/// A device through which packets leave.
pub(crate) const UPLINK: u32 = 2;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A frame is seen.
    See(Seen),
    /// An allow map is swapped, and the epoch bumped.
    SetAllow(AllowMapKey, Arc<AllowMap>),
    /// An endpoint is treated differently, and the epoch bumped.
    SetEndpoint(IfIndex, EndpointValue),
}

/// A frame, and where it is seen.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) program: Program,
    pub(crate) ifindex: u32,
    pub(crate) ingress_ifindex: u32,
    pub(crate) mark: u32,
    pub(crate) frame: Frame,
}

pub(crate) fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

pub(crate) fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)
}

/// The pods' own addresses end in 1, 2 and 3; that in 9 is a Service's.
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

fn all_addresses() -> Vec<Addr> {
    let v4 = (1..=4).chain([9]).map(|last| Addr::from(v4(last)));
    let v6 = (1..=4).chain([9]).map(|last| Addr::from(IpAddr::from(v6(last))));
    v4.chain(v6).collect()
}

fn identity() -> impl Strategy<Value = Identity> {
    (1_u32..=4).prop_map(Identity)
}

pub(crate) fn endpoint() -> impl Strategy<Value = EndpointValue> {
    let state = prop_oneof![19 => Just(EndpointValue::READY), 1 => Just(EndpointValue::BLOCKED)];
    let traits = prop_oneof![4 => Just(0), 1 => Just(EndpointValue::FORWARDS)];
    let audited = prop_oneof![3 => Just(0), 1 => 0_u8..4];
    let isolated = prop_oneof![2 => Just(3), 1 => 0_u8..4];
    (state, isolated, audited, 0_u8..4, traits, 0_u16..4).prop_map(
        |(state, isolated, audited, keeps_flows, traits, ticket)| EndpointValue {
            state,
            isolated,
            audited,
            keeps_flows,
            traits,
            pad: 0,
            ticket,
        },
    )
}

/// Mostly entries that the packets ask for.
fn allow_key() -> impl Strategy<Value = AllowKey> {
    let protocol = select(vec![1_u8, 6, 6, 6, 17, 17, 58, 132]);
    let len = prop_oneof![
        1 => Just(AllowKey::ALL_PROTOCOLS_BITS),
        2 => Just(AllowKey::ALL_PORTS_BITS),
        2 => AllowKey::ALL_PORTS_BITS..=AllowKey::FULL_BITS,
        3 => Just(AllowKey::FULL_BITS),
    ];
    (identity(), len, protocol, port()).prop_map(|(identity, prefix_len_bits, protocol, port)| {
        let port_bits = prefix_len_bits.saturating_sub(AllowKey::ALL_PORTS_BITS);
        let mask = u16::MAX.checked_shl(16 - port_bits).unwrap_or(0);
        let has_protocol = prefix_len_bits >= AllowKey::ALL_PORTS_BITS;
        AllowKey {
            prefix_len_bits,
            identity,
            protocol: Protocol(if has_protocol { protocol } else { 0 }),
            pad: 0,
            port: PortBe::new(port & mask),
        }
    })
}

pub(crate) fn allow_map() -> impl Strategy<Value = Arc<AllowMap>> {
    let verdict = prop_oneof![4 => Just(AllowValue::ALLOW), 1 => Just(AllowValue::DENY)];
    let value = (verdict, 1_u32..9).prop_map(|(verdict, rule)| AllowValue {
        rule: RuleId(rule),
        verdict,
        pad: [0; 3],
    });
    btree_map(allow_key(), value, 0..8).prop_map(Arc::new)
}

fn allow_map_key() -> impl Strategy<Value = AllowMapKey> {
    (select(PODS.to_vec()), any::<bool>()).prop_map(|(ifindex, is_ingress)| {
        let direction = if is_ingress { Direction::Ingress } else { Direction::Egress };
        AllowMapKey::new(IfIndex(ifindex), direction)
    })
}

fn prefixes() -> impl Strategy<Value = BTreeMap<PrefixKey, Identity>> {
    let blocks = [
        (96, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        (104, Ipv4Addr::new(10, 0, 0, 0).into()),
        (126, v4(0).into()),
        (127, v4(2).into()),
        (128, v4(3).into()),
        (0, Ipv6Addr::UNSPECIFIED.into()),
        (64, v6(0).into()),
        (127, v6(2).into()),
    ];
    subsequence(blocks.to_vec(), 0..=blocks.len()).prop_flat_map(|blocks| {
        let n_blocks = blocks.len();
        vec(identity(), n_blocks).prop_map(move |identities| {
            let keys = blocks.iter().map(|(prefix_len_bits, addr)| PrefixKey {
                prefix_len_bits: *prefix_len_bits,
                addr: Addr::from(*addr),
            });
            keys.zip(identities).collect()
        })
    })
}

/// What the maps may hold, sense or nonsense.
pub(crate) fn image() -> impl Strategy<Value = Image> {
    let endpoints = vec(endpoint(), PODS.len());
    let identities = btree_map(select(all_addresses()), identity(), 0..8);
    let allow = btree_map(allow_map_key(), allow_map(), 2..7);
    let defer = subsequence(
        vec![Addr::from(v4(9)), Addr::from(IpAddr::from(v6(9))), Addr::from(v4(4))],
        0..=3,
    );
    let tickets = subsequence(vec![(1, IfIndex(100)), (2, IfIndex(101)), (3, IfIndex(102))], 2..=3);
    (endpoints, identities, prefixes(), allow, defer, tickets).prop_map(
        |(endpoints, identities, prefixes, allow, defer, tickets)| Image {
            endpoints: endpoints
                .into_iter()
                .zip(PODS)
                .map(|(value, ifindex)| {
                    let container_id = Arc::from(format!("container-{ifindex}"));
                    (IfIndex(ifindex), EndpointImage { value, container_id })
                })
                .collect(),
            addresses: own_addresses(),
            identities,
            prefixes,
            allow,
            defer: defer.into_iter().collect(),
            tickets: tickets.into_iter().collect(),
        },
    )
}

fn own_addresses() -> BTreeSet<AddressKey> {
    let of_pod = |(ifindex, last): (u32, u8)| {
        [IpAddr::from(v4(last)), v6(u16::from(last)).into()]
            .map(|addr| AddressKey { ifindex: IfIndex(ifindex), addr: addr.into() })
    };
    PODS.into_iter().zip(1..).flat_map(of_pod).collect()
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![3 => Just(80), 3 => Just(81), 1 => 64_u16..96, 1 => any::<u16>()]
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

fn piece() -> impl Strategy<Value = Option<Piece>> {
    let offset_units = prop_oneof![3 => Just(0), 1 => 1_u16..4, 3 => Just(185), 1 => 0_u16..0x1fff];
    let piece = (0_u32..3, offset_units, any::<bool>())
        .prop_map(|(id, offset_units, more)| Some(Piece { id, offset_units, more }));
    prop_oneof![4 => Just(None), 1 => piece]
}

fn packet_of(segment: BoxedStrategy<Segment>) -> impl Strategy<Value = Packet> {
    let option_words = prop_oneof![5 => Just(0_u8), 1 => 1_u8..=10];
    (ends(), option_words, extensions(), piece(), segment).prop_map(
        |(ends, option_words, extensions, piece, segment)| Packet {
            ends,
            option_words,
            extensions,
            piece,
            segment,
        },
    )
}

fn packet() -> impl Strategy<Value = Packet> {
    let quoted = packet_of(segment()).prop_map(|packet| Some(Box::new(packet))).boxed();
    prop_oneof![8 => packet_of(segment()), 1 => packet_of(icmp(quoted).boxed())]
}

fn frame() -> impl Strategy<Value = Frame> {
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

/// Mostly packets from or to the pod behind the device.
fn seen() -> impl Strategy<Value = Seen> {
    let pod = select(PODS.to_vec());
    let site = prop_oneof![
        12 => (select(vec![Program::PodIngress, Program::PodEgress]), pod.clone()),
        1 => (select(vec![Program::PodIngress, Program::PodEgress]), Just(NO_POD)),
        2 => (Just(Program::UplinkEgress), Just(UPLINK)),
    ];
    // The tickets 1 to 3 in the upper bits, other bits below them.
    let ticket = prop_oneof![2 => Just(0_u32), 1 => 1_u32..5];
    let other_bits = select(vec![0_u32, 0xc000]);
    let ingress_ifindex = prop_oneof![6 => Just(UPLINK), 1 => Just(0), 1 => pod];
    let fits = prop_oneof![9 => Just(true), 1 => Just(false)];
    (site, ingress_ifindex, ticket, other_bits, frame(), fits).prop_map(
        |((program, ifindex), ingress_ifindex, ticket, other_bits, mut frame, fits)| {
            if fits && let Frame::Ip(packet, _) = &mut frame {
                fit(packet, program, ifindex);
            }
            let mark = (ticket << 20) | other_bits;
            Seen { program, ifindex, ingress_ifindex, mark, frame }
        },
    )
}

/// Gives the packet the pod's own address at the pod's end.
fn fit(packet: &mut Packet, program: Program, ifindex: u32) {
    let Some(last) = ifindex.checked_sub(99).and_then(|last| u8::try_from(last).ok()) else {
        return;
    };
    match (&mut packet.ends, program) {
        (Ends::V4(_, own), Program::PodIngress) | (Ends::V4(own, _), Program::PodEgress) => {
            *own = v4(last);
        }
        (Ends::V6(_, own), Program::PodIngress) | (Ends::V6(own, _), Program::PodEgress) => {
            *own = v6(last.into());
        }
        (_, Program::UplinkEgress | Program::UplinkEgressL3) => {}
    }
}

/// What happens one after the other.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        16 => seen().prop_map(Step::See),
        1 => (allow_map_key(), allow_map()).prop_map(|(key, map)| Step::SetAllow(key, map)),
        1 => (select(PODS.to_vec()), endpoint()).prop_map(|(ifindex, value)| Step::SetEndpoint(IfIndex(ifindex), value)),
    ];
    // A frame may come again, be answered or be complained about, at once or after the next steps.
    let echo = select(vec![Echo::None, Echo::Same, Echo::Answer, Echo::Complaint]);
    vec((step, echo, 0_usize..3), 1..30).prop_map(|steps| {
        let mut all: Vec<Step> = Vec::new();
        let mut pending: Vec<(usize, Seen)> = Vec::new();
        for (step, echo, delay) in steps {
            if let Step::See(seen) = &step {
                pending.extend(echo.of(seen).map(|seen| (delay, seen)));
            }
            all.push(step);
            for (delay, seen) in &mut pending {
                match delay.checked_sub(1) {
                    Some(rest) => *delay = rest,
                    None => all.push(Step::See(seen.clone())),
                }
            }
        }
        all
    })
}

/// What may follow a frame.
#[derive(Clone, Copy, Debug)]
enum Echo {
    None,
    Same,
    Answer,
    Complaint,
}

impl Echo {
    fn of(self, seen: &Seen) -> Option<Seen> {
        match self {
            Self::None => None,
            Self::Same => Some(seen.clone()),
            Self::Answer => answer(seen),
            Self::Complaint => complaint(seen),
        }
    }
}

fn swapped(ends: Ends) -> Ends {
    match ends {
        Ends::V4(src, dst) => Ends::V4(dst, src),
        Ends::V6(src, dst) => Ends::V6(dst, src),
    }
}

/// The opposite direction at the same device.
fn back(seen: &Seen) -> Option<Program> {
    match seen.program {
        Program::PodIngress => Some(Program::PodEgress),
        Program::PodEgress => Some(Program::PodIngress),
        Program::UplinkEgress | Program::UplinkEgressL3 => None,
    }
}

/// The frame the other way round.
fn answer(seen: &Seen) -> Option<Seen> {
    let Frame::Ip(packet, len_bytes) = &seen.frame else { return None };
    let mut packet = packet.clone();
    packet.ends = swapped(packet.ends);
    match &mut packet.segment {
        Segment::Tcp { src_port, dst_port, flags } => {
            std::mem::swap(src_port, dst_port);
            *flags |= 0x10;
        }
        Segment::Udp { src_port, dst_port } | Segment::Sctp { src_port, dst_port } => {
            std::mem::swap(src_port, dst_port);
        }
        Segment::Icmp { kind, .. } => {
            *kind = match *kind {
                8 => 0,
                128 => 129,
                other => other,
            }
        }
        Segment::Other { .. } => {}
    }
    let frame = Frame::Ip(packet, *len_bytes);
    Some(Seen { program: back(seen)?, mark: 0, frame, ..seen.clone() })
}

/// An ICMP error that quotes the frame.
fn complaint(seen: &Seen) -> Option<Seen> {
    let Frame::Ip(packet, _) = &seen.frame else { return None };
    let kind = match packet.ends {
        Ends::V4(..) => 3,
        Ends::V6(..) => 1,
    };
    let error = Segment::Icmp { kind, id: 0, quoted: Some(Box::new(packet.clone())) };
    let frame = Frame::whole(Packet::plain(swapped(packet.ends), error));
    Some(Seen { program: back(seen)?, mark: 0, frame, ..seen.clone() })
}
